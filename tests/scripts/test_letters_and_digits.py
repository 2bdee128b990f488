"""The demo's images match their description and are reproducible."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from letters_to_digits.channels import write_digits, write_letters
from letters_to_digits.handwritten import read_digits
from letters_to_digits.images import SIDE, Images
from letters_to_digits.printed import FONTS, draw_letters, glyph, letter_classes


@pytest.fixture(scope="module")
def letters() -> Images:
    return draw_letters(variants=2, seed=0)


def test_every_letter_of_both_cases_is_in_one_class() -> None:
    classes = letter_classes()
    assert len(classes) == 41
    assert Counter("".join(classes.values())).most_common(1)[0][1] == 1
    assert len("".join(classes.values())) == 52
    assert len({name.lower() for name in classes}) == 41


def test_letters_are_drawn_in_every_font(letters: Images) -> None:
    assert letters.pixels.shape == (41 * len(FONTS) * 2, SIDE, SIDE)
    assert letters.pixels.dtype == np.uint8
    assert set(Counter(letters.labels).values()) == {len(FONTS) * 2}


def test_fonts_draw_differently() -> None:
    assert len({glyph("g", font).tobytes() for font in FONTS}) == len(FONTS)


def test_letters_are_a_function_of_the_seed(letters: Images) -> None:
    assert np.array_equal(draw_letters(variants=2, seed=0).pixels, letters.pixels)
    assert not np.array_equal(draw_letters(variants=2, seed=1).pixels, letters.pixels)


def test_variants_are_distorted_differently(letters: Images) -> None:
    assert len({pixels.tobytes() for pixels in letters.pixels}) == len(letters)


def test_more_variants_do_not_change_existing_ones(letters: Images) -> None:
    assert np.array_equal(draw_letters(variants=1, seed=0).pixels, letters.pixels[::2])


def test_digits_include_all_of_scikit_learn() -> None:
    digits = read_digits()
    assert digits.pixels.shape == (1797, SIDE, SIDE)
    assert sorted(set(digits.labels)) == list("0123456789")


def test_strokes_are_bright_on_dark_background(letters: Images) -> None:
    for images in (letters, read_digits()):
        corners = images.pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert np.median(corners) == 0
        assert images.pixels.max(axis=(1, 2)).min() >= 200
        assert 0.1 < (images.pixels > 100).mean() < 0.5


def test_digit_channels_share_no_image(tmp_path: Path) -> None:
    channels = write_digits(tmp_path, per_class=5, seed=0)
    files = {name: sorted(folder.glob("*/*.png")) for name, folder in channels.items()}
    assert {name: len(paths) for name, paths in files.items()} == {"train": 50, "validation": 50, "test": 1697}
    assert Counter(path.parent.name for path in files["train"]) == dict.fromkeys("0123456789", 5)
    contents = [path.read_bytes() for paths in files.values() for path in paths]
    assert len(set(contents)) == len({digit.tobytes() for digit in read_digits().pixels})


def test_letter_channels_have_all_classes(tmp_path: Path) -> None:
    channels = write_letters(tmp_path, variants=1, seed=0)
    classes = {name: {path.name for path in folder.iterdir()} for name, folder in channels.items()}
    assert classes == {"train": set(letter_classes()), "validation": set(letter_classes())}
    assert len(list(channels["validation"].glob("*/*.png"))) == 41 * 2
