"""Tiny transformers models with random weights, saved by `save_pretrained`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WORDS = ("a", "good", "bad", "film", "book", "very", "not", "long", "short", ",")


def bert_folder(folder: Path) -> Path:
    """A two-layer BERT that distinguishes the two texts of a pair."""
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=_save_bert_tokenizer(folder),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    return _save(config, folder)


def distilbert_folder(folder: Path) -> Path:
    """A DistilBERT, which has no token types, with a tokenizer that returns them."""
    from transformers import DistilBertConfig

    config = DistilBertConfig(
        vocab_size=_save_bert_tokenizer(folder),
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=32,
    )
    return _save(config, folder)


def gpt2_folder(folder: Path) -> Path:
    """A GPT-2, whose tokenizer has no padding token."""
    from transformers import GPT2Config

    size = _save_tokenizer(folder, ("[UNK]", "[END]"), {"unk_token": "[UNK]", "eos_token": "[END]"})
    return _save(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=32), folder)


def vit_folder(folder: Path) -> Path:
    """A vision transformer for 16 x 16 images."""
    from transformers import ViTConfig

    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    folder.mkdir()
    processor = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return _save(config, folder)


def _save(config: PretrainedConfig, folder: Path) -> Path:
    from transformers import AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model.save_pretrained(folder)
    return folder


def _save_bert_tokenizer(folder: Path) -> int:
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _save_tokenizer(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]"), names)


def _save_tokenizer(folder: Path, special_tokens: tuple[str, ...], names: dict[str, str]) -> int:
    """Save a word-level tokenizer and return its vocabulary size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    token_ids = {word: number for number, word in enumerate((*special_tokens, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(token_ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if "cls_token" in names:
        markers = [(name, token_ids[name]) for name in ("[CLS]", "[SEP]")]
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, markers)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(token_ids)
