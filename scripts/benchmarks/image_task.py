"""Synthetic training images for all sides: 500 x 375 files in class folders, with file sizes like photographs."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.models import get_model

from benchmarks.machine import CORES

CLASSES = 4
HELD_OUT = 100
_WIDTH, _HEIGHT = 500, 375
SEEN = 32
_SEEN_FIRST, _SIDE = 10**6, 224
_TINT, _STRIPES, _GRAIN = 18.0, 14.0, 14.0


@dataclass(frozen=True, slots=True)
class ImageTask:
    """The paths of images and models.

    Attributes:
        folder: root folder.
        count: number of training images; as many are held out, at most one hundred.
        seen: number of images that batch normalization has seen.
    """

    folder: Path
    count: int
    seen: int = SEEN

    @property
    def train(self) -> Path:
        """Training images, one folder per class."""
        return self.folder / "train"

    @property
    def held_out(self) -> Path:
        """Images that are never given to a job."""
        return self.folder / "held-out"

    def weights(self, model: str) -> Path:
        """State dict of a torchvision model, random but reproducible: random weights cost as much as trained ones.

        Its batch normalization has seen images; otherwise the outputs of frozen layers would be useless.
        """
        path = self.folder / model / f"{model}.pth"
        if not path.exists():
            path.parent.mkdir()
            torch.manual_seed(0)
            module = get_model(model, weights=None)
            _see_images(module, self.seen)
            torch.save(module.state_dict(), path)
        return path


def _see_images(module: nn.Module, count: int) -> None:
    """Set the batch normalization statistics to those of images that no side trains on."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    pixels = torch.from_numpy(np.stack([image(_SEEN_FIRST + number) for number in range(count)]))
    inputs = functional.interpolate(pixels.permute(0, 3, 1, 2) / 255, size=_SIDE, mode="area")
    with torch.no_grad():
        module.train()(inputs.sub(inputs.mean()).div(inputs.std()))


def write_images(folder: Path, count: int, seen: int = SEEN) -> ImageTask:
    """Write training and held-out images, the same each time."""
    task = ImageTask(folder, count, seen)
    for split_folder, numbers in (
        (task.train, range(count)),
        (task.held_out, range(count, count + min(count, HELD_OUT))),
    ):
        for number in range(CLASSES):
            (split_folder / f"class-{number}").mkdir(parents=True)
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(partial(_write, split_folder), numbers))
    return task


def _write(folder: Path, number: int) -> None:
    name = folder / f"class-{number % CLASSES}" / f"{number:05d}.jpg"
    Image.fromarray(image(number)).save(name, quality=90)


def image(number: int) -> NDArray[np.uint8]:
    """Smooth color patches with grain, like a photograph; each class has its own stripes and a faint tint."""
    draw = np.random.default_rng(number)
    small = Image.fromarray(draw.integers(40, 216, (8, 11, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.float32)
    label = number % CLASSES
    angle = np.pi * label / CLASSES
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float32)
    wave = np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * 0.25 + draw.uniform(0, 2 * np.pi))
    tint = _TINT * np.eye(CLASSES, dtype=np.float32)[label, :3]
    grain = draw.normal(0, _GRAIN, (_HEIGHT, _WIDTH, 1)).astype(np.float32)
    pixels = smooth + _STRIPES * wave[..., None] + grain + tint
    image: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return image


def file_sizes(files: Iterable[Path]) -> str:
    """Median size of files, for a heading."""
    return f"{float(np.median([path.stat().st_size for path in files])) / 1000:.0f} kB"
