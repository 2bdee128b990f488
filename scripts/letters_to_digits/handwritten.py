"""Real handwritten digits, as bundled with scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from letters_to_digits.images import SIDE, Grey, Images

INK = 16
MARGIN = 3


def read_digits() -> Images:
    """Read the 1,797 digits of the test part of "Optical Recognition of Handwritten Digits" (UCI, 43 writers).

    Each has 8 x 8 values of 0..16, the ink in 4 x 4 blocks of a scan; they are smoothly enlarged.
    """
    digits = load_digits()
    pixels = np.stack([enlarged(values) for values in digits.images])
    return Images(pixels, tuple(str(label) for label in digits.target))


def enlarged(values: npt.NDArray[np.float64]) -> Grey:
    """Enlarge `[8, 8]` values of 0..16 to 0..255 in the center of `[SIDE, SIDE]`, without steps between the blocks.

    The strokes reach the edges of the input. Since models use the center crop of an image, a margin is added.
    """
    image = Image.fromarray((values / INK * 255).astype(np.float32))
    inner = SIDE - 2 * MARGIN
    smooth = np.asarray(image.resize((inner, inner), Image.Resampling.BICUBIC))
    return np.pad(np.clip(np.round(smooth), 0, 255).astype(np.uint8), MARGIN)
