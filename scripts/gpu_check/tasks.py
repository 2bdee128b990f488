"""Models with random weights and generated data: nothing is downloaded.

Random weights take as much time as pretrained ones. Images are those of the other benchmarks; texts are random words,
with the length distribution of docstrings: half have fewer than 34 words, one in ten more than 190.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.image_task import write_images
from gpu_check.scale import Scale

IMAGE_MODEL, TEXT_MODEL = "resnet18", "MiniLM-L6 size"
CLASSES = 4
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_UNKNOWN = _SPECIAL[1]
_VOCABULARY = 30_522
_MAX_WORDS = 400


@dataclass(frozen=True, slots=True)
class Task:
    """A model folder and a training channel.

    Attributes:
        kind: `images` or `texts`.
        name: name of the model.
        model: model channel.
        weights: state dict of a torchvision model; `None` for texts.
        train: folder of the training channel.
        count: number of training records.
    """

    kind: str
    name: str
    model: Path
    weights: Path | None
    train: Path
    count: int


def image_task(folder: Path, count: int, scale: Scale) -> Task:
    """ResNet-18, whose batch normalization statistics are those of such images."""
    task = write_images(folder, count, scale.seen_images)
    weights = task.weights(IMAGE_MODEL)
    return Task("images", "ResNet-18", weights.parent, weights, task.train, count)


def text_task(folder: Path, count: int, scale: Scale) -> Task:
    """A BERT of the size of MiniLM-L6 and texts whose class is that of most of their words."""
    model = folder / "model"
    build_text_model(scale).save_pretrained(model)
    _write_tokenizer(model)
    train = folder / "train"
    train.mkdir()
    rng = random.Random(0)  # noqa: S311 - data, not security
    with (train / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "text"])
        for number in range(count):
            writer.writerow([f"class-{number % CLASSES}", _text(rng, number % CLASSES)])
    return Task("texts", TEXT_MODEL, model, None, train, count)


def build_text_model(scale: Scale) -> Any:  # noqa: ANN401 - types of transformers
    """A text classifier with random weights."""
    from transformers import AutoModelForSequenceClassification, BertConfig

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=scale.width,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.width // 32 or 1,
        intermediate_size=4 * scale.width,
        id2label={number: f"class-{number}" for number in range(CLASSES)},
    )
    builder: Any = AutoModelForSequenceClassification
    return builder.from_config(config)


def _text(rng: random.Random, label: int) -> str:
    count = min(_MAX_WORDS, max(3, round(rng.lognormvariate(3.5, 1.35))))
    words = [rng.randrange(_VOCABULARY - len(_SPECIAL)) for _ in range(count)]
    return " ".join(f"w{word // CLASSES * CLASSES + label if rng.random() < 0.5 else word}" for word in words)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = [*_SPECIAL, *(f"w{number}" for number in range(_VOCABULARY - len(_SPECIAL)))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    builder: Any = PreTrainedTokenizerFast
    builder(
        tokenizer_object=tokenizer,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), _SPECIAL, strict=True)),
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask", "token_type_ids"],
    ).save_pretrained(folder)
