"""Images for the artifact tests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def make_image(seed: int, mode: str = "RGB", size: tuple[int, int] = (45, 37)) -> Image.Image:
    """A smooth color image, different for each seed."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [127 + 120 * np.sin((x * (1 + i) + y * (seed + 1)) / 19 + seed) for i in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).convert(mode)


def encode_image(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image encoded as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
