"""transformers' `Trainer` on texts, with a model of which some layers are trainable.

Written as by its users: texts are tokenized once before training, batches are padded to their longest text, and
everything else is the Trainer's default.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

from benchmarks.sides import TRAINABLE_TEXT_LAYERS, read_settings
from benchmarks.text_files import read_texts
from benchmarks.trainer_settings import Clock, arguments_of


class Texts(torch.utils.data.Dataset[dict[str, object]]):
    """Token ids and class numbers."""

    def __init__(self, tokens: list[list[int]], labels: list[int]) -> None:
        self.tokens = tokens
        self.labels = labels

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, object]:
        """One text."""
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


def main() -> None:
    """Train and save."""
    settings = read_settings()
    labels, texts = read_texts(Path(settings.train))
    names = sorted(set(labels))
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    model = AutoModelForSequenceClassification.from_pretrained(settings.model, id2label=dict(enumerate(names)))
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINABLE_TEXT_LAYERS[settings.trainable_layers]))
    data = Texts(tokenizer(texts, truncation=True)["input_ids"], [names.index(label) for label in labels])
    trainer = Trainer(
        model=model,
        args=arguments_of(settings),
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Clock()],
    )
    trainer.train()
    trainer.save_model(settings.output)
    tokenizer.save_pretrained(settings.output)


if __name__ == "__main__":
    main()
