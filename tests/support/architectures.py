"""Tiny configurations of the tested architectures, and folders with random weights for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.support.tiny_transformers import WORDS, write_processor, write_tokenizer

LABELS = ("no", "yes", "perhaps")
# Values for those of these fields that a configuration has.
_SIZES: Mapping[str, object] = {
    **dict.fromkeys(("hidden_size", "embedding_size", "intermediate_size", "ffn_dim", "word_embed_proj_dim"), 16),
    **dict.fromkeys(("n_embd", "n_inner", "d_model", "d_ff", "d_inner", "dim", "hidden_dim", "emb_dim", "d_kv"), 16),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "bottleneck_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    "vocab_size": len(WORDS),
    "max_position_embeddings": 64,
    "n_positions": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "image_size": 32,
    "patch_size": 8,
}
# Further options by architecture.
TEXT_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "albert": {},
    "bart": {},
    "bert": {},
    "bloom": {},
    "camembert": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "max_relative_positions": 8,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "position_biased_input": False,
    },
    "distilbert": {},
    "electra": {"embedding_size": 8},
    "ernie": {},
    "eurobert": {},
    "falcon": {"new_decoder_architecture": True},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
    "llama": {},
    "mistral": {},
    "modernbert": {},
    "modernbert-decoder": {},
    "mpnet": {},
    "nomic_bert": {},
    "olmo2": {},
    "opt": {"hidden_size": 16, "word_embed_proj_dim": 8},
    "phi": {},
    "phi3": {},
    # Its tokenizer class adds a token.
    "qwen2": {"vocab_size": len(WORDS) + 1},
    "qwen3": {"head_dim": 8},
    "rembert": {},
    "roberta": {},
    "roformer": {},
    "smollm3": {},
    "squeezebert": {"q_groups": 1, "k_groups": 1, "v_groups": 1, "post_attention_groups": 1, "intermediate_groups": 1},
    "t5": {"decoder_start_token_id": 0},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
}
IMAGE_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "beit": {},
    "convnext": {"patch_size": 4, "hidden_sizes": [8, 16], "depths": [2, 1], "num_stages": 2},
    "convnextv2": {"patch_size": 4, "hidden_sizes": [8, 16], "depths": [2, 1], "num_stages": 2},
    "data2vec-vision": {},
    "deit": {},
    "dinov2": {},
    "dinov2_with_registers": {"num_register_tokens": 2},
    "focalnet": {"embed_dim": 8, "depths": [1, 1], "hidden_sizes": [8, 16], "patch_size": 4},
    "ijepa": {},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "poolformer": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "siglip": {},
    "swin": {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 4},
    "swinv2": {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 4},
    "vit": {},
    "vit_msn": {},
}


def tiny_config(model_type: str) -> Any:  # noqa: ANN401 - its fields differ by architecture
    """A configuration with three classes and few parameters."""
    from transformers import AutoConfig

    default: Any = AutoConfig.for_model(model_type)
    options = {**TEXT_OPTIONS, **IMAGE_OPTIONS}[model_type]
    vision = getattr(default, "vision_config", None)
    unsized = {"depths"} & options.keys()
    allowed = {"image_size"} if unsized else _SIZES.keys()
    sizes = {name: _SIZES[name] for name in allowed if hasattr(default, name)}
    if model_type in LAST_TOKEN_TYPES:
        sizes |= {"pad_token_id": 3} if model_type == "modernbert-decoder" else {"pad_token_id": None}
    if vision is not None:
        sizes = {"vision_config": {name: value for name, value in _SIZES.items() if hasattr(vision, name)}}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    return AutoConfig.for_model(model_type, **{**sizes, **names, **options})


def write_architecture(folder: Path, model_type: str, seed: int = 5) -> Path:
    """Save a model with random weights and its tokenizer or image processor."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    is_text = model_type in TEXT_OPTIONS
    builder: Any = AutoModelForSequenceClassification if is_text else AutoModelForImageClassification
    config = tiny_config(model_type)
    if model_type == "deit":
        config.architectures = ["DeiTForImageClassification"]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = builder.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    if is_text:
        is_decoder = model_type in LAST_TOKEN_TYPES
        write_tokenizer(folder, padded=not is_decoder)
    else:
        write_processor(folder)
    return folder


LAST_TOKEN_TYPES = frozenset(
    {
        *("bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral"),
        *("modernbert-decoder", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3"),
    }
)
"""Architectures that classify the last token of a text, with a tokenizer without padding and special tokens."""
UNDIVIDED_TYPES = frozenset({"bart", "modernbert-decoder", "squeezebert", "t5"})
"""Architectures that cannot be split between their blocks."""
