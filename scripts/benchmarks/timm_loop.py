"""timm's own training setup for an image folder: its loader, augmentation, model and optimizer, with our precision."""

from __future__ import annotations

from typing import Any

import torch
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from timm.models import create_model
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # public by its documentation
from torch import nn
from torch.amp.grad_scaler import GradScaler

from benchmarks.sides import FIRST_STEP, TRAINED, read_settings, tell
from finetune.runtime.precision import choose_numerics


def main() -> None:
    """Train for the requested epochs, and report the times of the first step and of the end."""
    settings = read_settings()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numerics = choose_numerics(settings.precision, device)
    data = create_dataset("", root=settings.train)
    loader: Any = create_loader(
        data,
        input_size=(3, 224, 224),
        batch_size=settings.batch,
        is_training=True,
        num_workers=4,  # the default of its train.py
        use_prefetcher=device.type == "cuda",
        device=device,
        persistent_workers=True,
    )
    model: nn.Module = create_model(settings.model, num_classes=len(data.reader.class_to_idx))
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # not in torch's stub
    optimizer = create_optimizer_v2(model, opt="adamw", lr=settings.rate)
    scaler = GradScaler(device.type, enabled=numerics.scaled)
    records, begun = 0, False
    for _ in range(settings.epochs):
        for pixels, targets in loader:
            laid_out = pixels.to(device).contiguous(memory_format=torch.channels_last)
            with numerics.context():
                loss = nn.functional.cross_entropy(model(laid_out).float(), targets.to(device))
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if begun:
                records += len(targets)
            else:
                loss.item()
                tell(FIRST_STEP)
                begun = True
    loss.item()
    tell(f"{TRAINED} {records}")


if __name__ == "__main__":
    main()
