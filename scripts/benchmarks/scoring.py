"""Accuracy of weights on held-out records, computed after the benchmark by the same code for every side."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.image_task import CLASSES
from benchmarks.text_files import read_texts

_BATCH = 16


def image_accuracy(artifact: Path, architecture: str, images: Path) -> float:
    """Accuracy of a torchvision model's weights, from our artifact or saved by the Trainer's script."""
    from safetensors.torch import load_file
    from torchvision.datasets import ImageFolder
    from torchvision.models import get_model, get_model_weights

    ours, theirs = artifact / "model.safetensors", artifact / "model.pt"
    model = get_model(architecture, weights=None)
    model.fc = nn.Linear(model.fc.in_features, CLASSES)
    model.load_state_dict(load_file(ours) if ours.exists() else torch.load(theirs, weights_only=True))
    model.eval()
    data = ImageFolder(str(images), get_model_weights(architecture).DEFAULT.transforms())
    loader = torch.utils.data.DataLoader(data, batch_size=_BATCH)
    with torch.inference_mode():
        right = sum(int((model(pixels).argmax(1) == targets).sum()) for pixels, targets in loader)
    return right / len(data)


def text_accuracy(artifact: Path, texts: Path) -> float:
    """Accuracy of a folder that `from_pretrained` loads."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels, contents = read_texts(texts)
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    model = AutoModelForSequenceClassification.from_pretrained(artifact).eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(contents), _BATCH):
            batch = tokenizer(contents[start : start + _BATCH], truncation=True, padding=True, return_tensors="pt")
            answers = model(**batch).logits.argmax(1).tolist()
            right += sum(
                model.config.id2label[answer] == label
                for answer, label in zip(answers, labels[start : start + _BATCH], strict=True)
            )
    return right / len(contents)
