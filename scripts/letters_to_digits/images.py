"""Small grayscale images with their classes, and their conversion to the files of a channel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 32
CELL = SIDE + 2

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Images:
    """Bright strokes on a dark background.

    Attributes:
        pixels: uint8 `[count, SIDE, SIDE]`.
        labels: the class name of each image.
    """

    pixels: Grey
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> Images:
        return Images(self.pixels[indices], tuple(self.labels[index] for index in indices))


def hold_out(images: Images, per_class: int, seed: int) -> tuple[Images, Images]:
    """Select `per_class` images of each class at random.

    Returns:
        The selected images, and all others.

    Raises:
        ValueError: a class has no more than `per_class` images.
    """
    names = np.array(images.labels)
    drawn: list[npt.NDArray[np.int64]] = []
    for number, name in enumerate(sorted(set(images.labels))):
        members = np.flatnonzero(names == name)
        if per_class >= len(members):
            raise ValueError(f"class {name!r} has {len(members)} images: fewer than {per_class} and one to spare")
        drawn.append(np.random.default_rng((seed, number)).permutation(members)[:per_class])
    chosen = np.sort(np.concatenate(drawn))
    return images[chosen], images[np.setdiff1d(np.arange(len(images)), chosen)]


def write_folders(images: Images, folder: Path) -> None:
    """Write each image as a PNG file, in one folder per class."""
    for name in set(images.labels):
        (folder / name).mkdir(parents=True)
    for index, (pixels, name) in enumerate(zip(images.pixels, images.labels, strict=True)):
        Image.fromarray(pixels).save(folder / name / f"{index:05d}.png")


def contact_sheet(images: Images, path: Path, columns: int = 10) -> None:
    """Write one image that shows up to `columns` images of each class, one class per row."""
    names = np.array(images.labels)
    classes = sorted(set(images.labels))
    sheet = np.full((len(classes) * CELL, columns * CELL), 80, np.uint8)
    for row, name in enumerate(classes):
        for column, index in enumerate(np.flatnonzero(names == name)[:columns]):
            top, left = row * CELL, column * CELL
            sheet[top : top + SIDE, left : left + SIDE] = images.pixels[index]
    Image.fromarray(sheet).save(path)
