"""Printed letters, drawn with matplotlib's bundled fonts, then distorted, rotated and blurred."""

from __future__ import annotations

import string
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from letters_to_digits.images import SIDE, Grey, Images

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
SAME_IN_BOTH_CASES = "CKOPSUVWXYZ"
CANVAS = 2 * SIDE

Plane = npt.NDArray[np.float64]


def letter_classes() -> dict[str, str]:
    """The name of each class and its letters: two if upper and lower case differ only in size.

    The names differ in more than case, because some file systems ignore case.
    """
    both = {f"both_{letter}": letter + letter.lower() for letter in SAME_IN_BOTH_CASES}
    upper = {f"upper_{letter}": letter for letter in string.ascii_uppercase if letter not in SAME_IN_BOTH_CASES}
    lower = {f"lower_{letter}": letter for letter in string.ascii_lowercase if letter.upper() not in SAME_IN_BOTH_CASES}
    return both | lower | upper


def draw_letters(variants: int, seed: int) -> Images:
    """Draw every letter in every font.

    Args:
        variants: number of images of each letter in each font, each distorted differently.
        seed: together with class, font and variant, determines everything that is random about an image.

    Returns:
        41 classes x 22 fonts x `variants` images.
    """
    planes: list[Grey] = []
    labels: list[str] = []
    for class_number, (name, letters) in enumerate(letter_classes().items()):
        for font_number, font in enumerate(FONTS):
            for variant in range(variants):
                rng = np.random.default_rng((seed, class_number, font_number, variant))
                planes.append(handwriting_like(glyph(letters[variant % len(letters)], font), rng))
                labels.append(name)
    return Images(np.stack(planes), tuple(labels))


def glyph(letter: str, font: str) -> Plane:
    """Draw one letter, 0..1, as large as possible in the center of a `[CANVAS, CANVAS]` plane."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    face = ImageFont.truetype(folder / f"{font}.ttf", size=CANVAS)
    left, top, right, bottom = face.getbbox(letter)
    image = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), letter, font=face, fill=255)
    scale = 0.9 * CANVAS / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(image, ((CANVAS - image.width) // 2, (CANVAS - image.height) // 2))
    return np.asarray(canvas, dtype=np.float64) / 255


def handwriting_like(plane: Plane, rng: np.random.Generator) -> Grey:
    """Distort, rotate, shear, scale and blur a glyph, and resize it to `[SIDE, SIDE]`."""
    bent = ndimage.map_coordinates(plane, bend(rng), order=1, mode="constant")
    block = CANVAS // SIDE
    blurred = ndimage.gaussian_filter(bent, sigma=block * rng.uniform(0.8, 1.8))
    small: Plane = blurred.reshape(SIDE, block, SIDE, block).mean(axis=(1, 3))
    brightness = rng.uniform(200, 255) / max(float(small.max()), 1e-6)
    return np.round(small * brightness).astype(np.uint8)


def bend(rng: np.random.Generator) -> Plane:
    """Source coordinates of each pixel of the distorted glyph: `[2, CANVAS, CANVAS]`, in pixels of the original one."""
    middle = (CANVAS - 1) / 2
    rows, columns = np.mgrid[:CANVAS, :CANVAS] - middle
    angle, slant = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(-0.25, 0.25)
    height, width = rng.uniform(0.85, 1.1), rng.uniform(0.7, 1.1)
    down = (np.cos(angle) * rows - np.sin(angle) * columns) / height
    right = (np.sin(angle) * rows + np.cos(angle) * columns + slant * rows) / width
    strength = rng.uniform(0.01, 0.05) * CANVAS
    return np.stack([down, right]) + middle + strength * np.stack([wave(rng), wave(rng)])


def wave(rng: np.random.Generator) -> Plane:
    """A smooth random surface `[CANVAS, CANVAS]` around 0, with a few maxima and minima."""
    coarse = Image.fromarray(rng.standard_normal((5, 5)).astype(np.float32))
    return np.asarray(coarse.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC), dtype=np.float64)
