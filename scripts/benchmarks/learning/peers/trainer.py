"""The Trainer of transformers, with the settings of its example scripts for image and text classification.

The scripts' defaults are those of `TrainingArguments`: three epochs, AdamW with a learning rate of 5e-5 that decays
linearly, batches of 8. Source: `examples/pytorch` of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainingArguments, set_seed

from benchmarks.learning.peers.cell import Cell, read_cell, read_images, read_texts, write_predictions

_MAX_LENGTH = 128


class Records(torch.utils.data.Dataset[dict[str, Any]]):
    """Records that are transformed when they are read."""

    def __init__(self, inputs: list[Any], targets: list[int], transform: Any) -> None:  # noqa: ANN401 - a function
        self._inputs, self._targets, self._transform = inputs, targets, transform

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._transform(self._inputs[index]), "labels": self._targets[index]}


def image_parts(cell: Cell, classes: list[str]) -> tuple[Any, Any, Any]:
    """The model, and the transforms of training and test images."""
    from PIL import Image
    from torchvision import transforms
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    models: Any = AutoModelForImageClassification
    processors: Any = AutoImageProcessor
    model = models.from_pretrained(cell.model, num_labels=len(classes), ignore_mismatched_sizes=True)
    settings = processors.from_pretrained(cell.model).data_config
    end = [transforms.ToTensor(), transforms.Normalize(settings["mean"], settings["std"])]
    size = cell.image_size
    train = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *end])
    test = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *end])

    def transformed(by: Any) -> Any:  # noqa: ANN401 - functions
        return lambda path: {"pixel_values": by(Image.open(path).convert("RGB"))}

    return model, transformed(train), transformed(test)


def text_parts(cell: Cell, classes: list[str]) -> tuple[Any, Any, Any]:
    """The model, and the tokenization of training and test texts."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cell.model)
    model = AutoModelForSequenceClassification.from_pretrained(cell.model, num_labels=len(classes))

    def tokens(text: str) -> Any:  # noqa: ANN401 - a mapping
        return tokenizer(text, padding="max_length", max_length=_MAX_LENGTH, truncation=True)

    return model, tokens, tokens


def main() -> None:
    """Train and predict."""
    cell = read_cell()
    set_seed(cell.seed)
    read, parts = (read_images, image_parts) if cell.images else (read_texts, text_parts)
    (train, labels), (test, truth) = read(cell.train), read(cell.test)
    classes = sorted(set(labels))
    model, for_training, for_testing = parts(cell, classes)
    arguments = TrainingArguments(
        output_dir=cell.scratch,
        seed=cell.seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    records = Records(train, [classes.index(label) for label in labels], for_training)
    trainer = Trainer(model, arguments, train_dataset=records)
    trainer.train()
    outputs: Any = trainer.predict(Records(test, [classes.index(label) for label in truth], for_testing)).predictions
    write_predictions(cell, [classes[index] for index in outputs.argmax(1)])


if __name__ == "__main__":
    main()
