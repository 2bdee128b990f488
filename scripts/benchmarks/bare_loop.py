"""Training loop on tensors already on the device, as an upper bound on the speed of any job.

Same model, precision, optimizer and batch size as our job. Images are normalized and channels-last; text batches are
grouped by length within the same pools as those of our job, so that the loop is compared and not the padding.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from benchmarks.sides import (
    FIRST_STEP,
    RATE,
    TRAINABLE_IMAGE_LAYERS,
    TRAINABLE_TEXT_LAYERS,
    TRAINED,
    TrainerSettings,
    read_settings,
    tell,
)
from finetune.runtime.precision import choose_numerics

_POOL = 50
Batches = list[tuple[dict[str, Tensor], Tensor]]


def main() -> None:
    """Train for the requested epochs, and report the times of the first step and of the end."""
    settings = read_settings()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numerics = choose_numerics(settings.precision, device)
    build = _images if settings.kind == "images" else _texts
    model, batches = build(settings, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings.rate, fused=True)
    scaler = GradScaler(device.type, enabled=numerics.scaled)

    def step(inputs: dict[str, Tensor], targets: Tensor) -> None:
        with numerics.context():
            output = model(**inputs)
            logits = output if isinstance(output, Tensor) else output.logits
            loss = nn.functional.cross_entropy(logits.float(), targets)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    model.train()
    timed = [batch for _ in range(settings.epochs) for batch in batches]
    step(*timed[0])
    tell(FIRST_STEP)
    records = sum(len(targets) for _, targets in timed[1:])
    if device.type == "cuda":
        tell(f"{RATE} {records / _device_seconds(step, timed[1:])}")
    else:
        for batch in timed[1:]:
            step(*batch)
        tell(f"{TRAINED} {records}")


def _device_seconds(step: Callable[[dict[str, Tensor], Tensor], None], batches: Batches) -> float:
    """Seconds of all steps by device events; the median step times their number if all steps are alike."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(batches) + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for batch, mark in zip(batches, marks[1:], strict=True):
        step(*batch)
        mark.record()
    torch.cuda.synchronize()
    steps = [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(marks)]
    # Text steps differ in length.
    alike = len({tuple(value.shape for value in inputs.values()) for inputs, _ in batches}) == 1
    return float(statistics.median(steps)) * len(steps) if alike else sum(steps)


def _images(settings: TrainerSettings, device: torch.device) -> tuple[nn.Module, Batches]:
    from torchvision.datasets import ImageFolder
    from torchvision.models import get_model, get_model_weights

    data = ImageFolder(settings.train, get_model_weights(settings.model).DEFAULT.transforms())
    model = get_model(settings.model, weights=None)
    model.load_state_dict(torch.load(settings.weights, weights_only=True))
    _freeze(model, TRAINABLE_IMAGE_LAYERS[settings.trainable_layers])
    model.fc = nn.Linear(model.fc.in_features, len(data.classes))
    model.to(device, memory_format=torch.channels_last)
    pixels = torch.stack([image for image, _ in data]).to(device, memory_format=torch.channels_last)
    targets = torch.tensor(data.targets, device=device)
    parts = zip(torch.split(pixels, settings.batch), torch.split(targets, settings.batch), strict=True)
    return model, [({"x": part}, target) for part, target in parts]


def _texts(settings: TrainerSettings, device: torch.device) -> tuple[nn.Module, Batches]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from benchmarks.text_files import read_texts

    labels, texts = read_texts(Path(settings.train))
    names = sorted(set(labels))
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    model = AutoModelForSequenceClassification.from_pretrained(settings.model, num_labels=len(names)).to(device)
    _freeze(model.base_model, TRAINABLE_TEXT_LAYERS[settings.trainable_layers])
    tokens = tokenizer(texts, truncation=True)["input_ids"]
    order = _by_length([len(ids) for ids in tokens], settings.batch)
    batches = []
    for start in range(0, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        padded = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt").to(device)
        batches.append((dict(padded), torch.tensor([names.index(labels[row]) for row in rows], device=device)))
    return model, batches


def _freeze(model: nn.Module, trainable: tuple[str, ...]) -> None:
    """Freeze all parameters whose names have none of these beginnings."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trainable))


def _by_length(lengths: list[int], batch: int) -> list[int]:
    """A random order, sorted within pools of 50 batches, or of a quarter of all if there are fewer than 200."""
    order = list(range(len(lengths)))
    random.Random(0).shuffle(order)  # noqa: S311 - shuffling, not security
    pool = batch * max(1, min(_POOL, len(order) // batch // 4))
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    return [index for pool in pools for index in sorted(pool, key=lengths.__getitem__)]


if __name__ == "__main__":
    main()
