"""One job for both sides: a BERT of five million parameters and sentences of made-up words, in files that both read."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLASSES = ("rise", "fall", "rest")
WORDS = 8000


@dataclass(frozen=True, slots=True)
class TextTask:
    """Paths and sizes of the task.

    Attributes:
        table: CSV with the columns `text` and `label`.
        model: a folder that `from_pretrained` loads.
        records: rows of the table.
        batch_size: records per step.
    """

    table: Path
    model: Path
    records: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch."""
        return self.records // self.batch_size


def write_task(folder: Path, records: int, batch_size: int) -> TextTask:
    """Write table and model into a folder."""
    task = TextTask(folder / "train" / "texts.csv", folder / "model", records, batch_size)
    task.table.parent.mkdir(parents=True)
    draw = random.Random(1)  # noqa: S311 - test data, not security
    with task.table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(records):
            words = " ".join(f"w{draw.randrange(WORDS)}" for _ in range(draw.randrange(8, 24)))
            writer.writerow([f"{words} r{number % 97}", CLASSES[number % len(CLASSES)]])
    _write_model(task.model)
    return task


def _write_model(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(WORDS))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    fast: Any = PreTrainedTokenizerFast
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast(tokenizer_object=tokenizer, model_max_length=64, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=64,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    model: Any = BertForSequenceClassification
    model(config).save_pretrained(folder)
