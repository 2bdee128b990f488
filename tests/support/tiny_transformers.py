"""Folders of tiny transformers models, as a user would provide them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "on", "mat", "ran", "away", "up", "in")
TEXT_TYPES = ("bert", "distilbert", "roberta", "deberta", "deberta-v2", "electra", "gpt2")
TYPED = ("bert", "deberta", "deberta-v2", "electra")
"""Families whose tokenizers distinguish the two texts of a pair."""
IMAGE_TYPES = ("vit", "swin", "resnet")

_ENCODER = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "bert": _ENCODER,
    "distilbert": {"vocab_size": len(WORDS), "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16},
    "roberta": _ENCODER,
    "deberta": {**_ENCODER, **_RELATIVE},
    "deberta-v2": {
        **_ENCODER,
        **_RELATIVE,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "position_biased_input": False,
    },
    "electra": {**_ENCODER, "embedding_size": 8},
    "gpt2": {
        "vocab_size": len(WORDS),
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 32,
        "bos_token_id": 3,
        "eos_token_id": 3,
    },
    "vit": {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    },
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}


def write_folder(
    folder: Path,
    model_type: str,
    *,
    labels: tuple[str, ...] | None = None,
    headless: bool = False,
    seed: int = 5,
    **options: object,
) -> Path:
    """Save a model with random weights and its tokenizer or image processor; without `labels`, with generic names."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
    )

    names = (
        {}
        if labels is None
        else {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    )
    config = AutoConfig.for_model(model_type, **{**_OPTIONS[model_type], **names, **options})
    classifier: Any = (
        AutoModelForSequenceClassification if model_type in TEXT_TYPES else AutoModelForImageClassification
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        builder: Any = AutoModel if headless else classifier
        model = builder.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    if model_type in TEXT_TYPES:
        write_tokenizer(folder, padded=model_type != "gpt2", token_types=model_type in TYPED)
    else:
        write_processor(folder)
    return folder


def write_tokenizer(folder: Path, *, padded: bool, token_types: bool = False, **options: object) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if padded:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"} if padded else {"eos_token": "[SEP]"}
    builder: Any = PreTrainedTokenizerFast
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    tokenizer_options = {
        "unk_token": "[UNK]",
        "model_max_length": 1000,
        "model_input_names": names,
        **special,
        **options,
    }
    builder(tokenizer_object=tokenizer, **tokenizer_options).save_pretrained(folder)


def write_processor(folder: Path, **changes: object) -> None:
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.5],
        **changes,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
