from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from letters_to_digits.images import CELL, SIDE, Images, contact_sheet, hold_out, write_folders


def three_of_each(*labels: str) -> Images:
    """Images that differ by their brightness."""
    names = tuple(label for label in labels for _ in range(3))
    levels = np.arange(len(names), dtype=np.uint8)[:, None, None]
    return Images(np.broadcast_to(levels, (len(names), SIDE, SIDE)).copy(), names)


def test_hold_out_takes_requested_number_of_each_class() -> None:
    images = three_of_each("a", "b")
    held, others = hold_out(images, per_class=1, seed=0)
    assert sorted(held.labels) == ["a", "b"]
    assert sorted(others.labels) == ["a", "a", "b", "b"]
    levels = np.concatenate([held.pixels, others.pixels])[:, 0, 0]
    assert sorted(levels.tolist()) == list(range(6))


def test_hold_out_is_decided_by_the_seed() -> None:
    images = three_of_each("a", "b", "c", "d")
    draws = [hold_out(images, per_class=1, seed=seed)[0].pixels.tobytes() for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_hold_out_leaves_records_of_each_class() -> None:
    with pytest.raises(ValueError, match="class 'a' has 3 images"):
        hold_out(three_of_each("a"), per_class=3, seed=0)


def test_files_are_the_images_in_a_folder_per_class(tmp_path: Path) -> None:
    images = three_of_each("a", "b")
    write_folders(images, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with Image.open(tmp_path / "b" / "00004.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), images.pixels[4])


def test_contact_sheet_has_a_row_per_class(tmp_path: Path) -> None:
    contact_sheet(three_of_each("a", "b"), tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (2 * CELL, 2 * CELL)
        assert image.getpixel((CELL, CELL)) == 4
