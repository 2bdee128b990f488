"""Images that a small model learns to classify within seconds: one color per class, with strong noise."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
COLORS: Mapping[str, tuple[int, int, int]] = {"blue": (60, 60, 150), "green": (60, 150, 60), "red": (150, 60, 60)}


def make_image(name: str, number: int) -> Image.Image:
    """The image of a class with a number; all images are different."""
    noise = np.random.default_rng([number, *name.encode()]).integers(-60, 61, size=(SIDE, SIDE, 3))
    return Image.fromarray((np.array(COLORS[name]) + noise).clip(0, 255).astype(np.uint8))


def encode_image(image: Image.Image, image_format: str = "PNG") -> bytes:
    """The image encoded as a file."""
    file = io.BytesIO()
    image.save(file, image_format)
    return file.getvalue()


def write_images(folder: Path, per_class: int, first: int = 0, names: tuple[str, ...] = tuple(COLORS)) -> Path:
    """Write one folder per class and return the parent folder."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(first, first + per_class):
            (folder / name / f"{number:03d}.png").write_bytes(encode_image(make_image(name, number)))
    return folder
