"""transformers' `Trainer` on an image folder, with a torchvision model of which some layers are trainable.

Written as by its users: images are decoded by Pillow and transformed by torchvision on access, and everything else is
the Trainer's default, such as loading data in the training process itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.datasets import ImageFolder
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import v2
from transformers import Trainer

from benchmarks.sides import TRAINABLE_IMAGE_LAYERS, read_settings
from benchmarks.trainer_settings import Clock, arguments_of


class Classifier(nn.Module):
    """A model in the form that the Trainer expects: with the loss next to the logits if there are labels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute loss and logits."""
        logits = self.model(pixel_values)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def collate(examples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """A batch of images and class numbers."""
    return {
        "pixel_values": torch.stack([pixels for pixels, _ in examples]),
        "labels": torch.tensor([label for _, label in examples]),
    }


def main() -> None:
    """Train and save."""
    settings = read_settings()
    plain = get_model_weights(settings.model).DEFAULT.transforms()
    varied = v2.Compose(
        [
            v2.RandomResizedCrop(plain.crop_size[0], scale=(0.35, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(plain.mean, plain.std),
        ]
    )
    data = ImageFolder(settings.train, plain if settings.trainable_layers == "head" else varied)
    model = get_model(settings.model, weights=None)
    model.load_state_dict(torch.load(settings.weights, weights_only=True))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINABLE_IMAGE_LAYERS[settings.trainable_layers]))
    model.fc = nn.Linear(model.fc.in_features, len(data.classes))
    trainer = Trainer(
        model=Classifier(model),
        args=arguments_of(settings, remove_unused_columns=False),
        train_dataset=data,
        data_collator=collate,
        callbacks=[Clock()],
    )
    trainer.train()
    torch.save(model.state_dict(), Path(settings.output) / "model.pt")


if __name__ == "__main__":
    main()
