"""A model and a channel small enough to train in a test, with everything that is hard to reproduce."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from finetune.config.hyperparameters import TaskName
from finetune.data.bad_records import BadRecords
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batches, BatchOptions
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.sampler import balanced_sampler
from finetune.data.record import Record
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry
from finetune.models.backbone import ImageInput, LayerGroup, LoadedWeights, ModelDescription, Outputs, SplitModel
from finetune.models.splitting.split_model import split_image_model

SIDE = 8
CLASSES = ("down", "level", "up")


class TinyNetwork(nn.Module):
    """Convolutions with batch normalization, dropout, and a linear head."""

    def __init__(self, seed: int, dropout: float) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            self.middle = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
            self.dropout = nn.Dropout(dropout)
            self.head = nn.Linear(6, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.middle(self.stem(pixels)).mean(dim=(2, 3))))
        return logits


@dataclass
class TinyBackbone:
    """`TinyNetwork` as a `Backbone`."""

    seed: int = 0
    dropout: float = 0.25
    name: str = "tiny"
    expects: ImageInput = field(default_factory=lambda: ImageInput(SIDE, SIDE, "bilinear", (0.5,) * 3, (0.25,) * 3))
    weights: LoadedWeights = field(default_factory=lambda: LoadedWeights("random"))

    def __post_init__(self) -> None:
        self.module = TinyNetwork(self.seed, self.dropout)

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        groups = {
            "stem": (self.module.stem,),
            "middle": (self.module.middle,),
            "head": (self.module.dropout, self.module.head),
        }
        names = list(dict(self.module.named_parameters()))
        return tuple(
            LayerGroup(name, modules, tuple(n for n in names if n.split(".")[0] == name))
            for name, modules in groups.items()
        )

    @property
    def classifier(self) -> nn.Linear:
        return self.module.head

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        return Outputs(self.module((inputs["pixels"].float() / 255 - 0.5) / 0.25))

    def split(self, split_index: int) -> SplitModel:
        return split_image_model(
            self, split_index, lambda inputs: (inputs["pixels"].float() / 255 - 0.5) / 0.25, image_size=SIDE
        )

    def describe(self) -> ModelDescription:
        return ModelDescription("torchvision", "tiny")

    def save(self, folder: Path) -> None:
        save_file(self.module.state_dict(), folder / "model.safetensors")


@dataclass(frozen=True)
class TinyReader:
    """Images whose brightness rises, falls or stays constant, generated from their index alone."""

    count: int
    channel: str = "train"
    task: TaskName = "image-classification"
    left_out: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"{index:04d}.png"

    def labels(self, index: int) -> tuple[str, ...]:
        return (CLASSES[index % 3],)

    def clue(self, index: int) -> int:
        return 0

    def read(self, index: int) -> Record:
        rng = random.Random(index)
        slope = (index % 3 - 1) * 20
        rows = [[rng.randrange(60) + 100 + slope * (y - SIDE // 2) for _ in range(SIDE)] for y in range(SIDE)]
        image = Image.new("L", (SIDE, SIDE))
        image.putdata([min(255, max(0, value)) for row in rows for value in row])
        file = io.BytesIO()
        image.save(file, "PNG")
        return Record(self.key(index), file.getvalue(), self.labels(index))


def tiny_batches(
    reader: TinyReader,
    *,
    training: bool,
    batch_size: int = 8,
    seed: int = 0,
    workers: int = 0,
    balanced: bool = False,
) -> Batches:
    """Batches of a whole reader; the training batches are augmented, and shuffled or drawn from balanced classes."""
    transform = ImageTransform(ImageGeometry(SIDE, SIDE, "bilinear"), "basic")
    dataset = Dataset(reader, tuple(range(len(reader))), LabelMap(CLASSES, multi_label=False), transform)
    sampler = balanced_sampler([reader.labels(index) for index in range(len(reader))]) if balanced else None
    options = BatchOptions(
        batch_size, seed, shuffle=training, augment=training, workers=workers, pin_memory=False, sampler=sampler
    )
    return Batches(dataset, options, BadRecords(reader.channel, 0))
