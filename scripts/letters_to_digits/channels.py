"""Selects the images of each job and writes them into its channels."""

from __future__ import annotations

from pathlib import Path

from letters_to_digits.handwritten import read_digits
from letters_to_digits.images import contact_sheet, hold_out, write_folders
from letters_to_digits.printed import FONTS, draw_letters

Channels = dict[str, Path]


def write_letters(folder: Path, variants: int, seed: int) -> Channels:
    """Draw the letters into the channels `train` and `validation`, with about a tenth of each class in the latter.

    Args:
        folder: root of a folder per channel, and of the overview image `letters.png`.
        variants: number of images of each letter in each font.
        seed: determines the distortions and the split.
    """
    letters = draw_letters(variants, seed)
    validation, train = hold_out(letters, per_class=len(FONTS) * variants // 10, seed=seed)
    channels = {"train": folder / "train", "validation": folder / "validation"}
    write_folders(train, channels["train"])
    write_folders(validation, channels["validation"])
    contact_sheet(letters, folder / "letters.png", columns=20)
    return channels


def write_digits(folder: Path, per_class: int, seed: int) -> Channels:
    """Write digits into `train` and `validation`, `per_class` of each in either, and all others into `test`.

    Args:
        folder: root of a folder per channel, and of `digits.png`, which shows all training images.
        per_class: number of training images of each digit.
        seed: determines the selection.
    """
    train, others = hold_out(read_digits(), per_class, seed)
    validation, test = hold_out(others, per_class, seed)
    channels = {name: folder / name for name in ("train", "validation", "test")}
    for images, name in ((train, "train"), (validation, "validation"), (test, "test")):
        write_folders(images, channels[name])
    contact_sheet(train, folder / "digits.png", columns=per_class)
    return channels
