"""Class folders with similar names stay separate classes, with a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.labels import LabelMap, build_label_map, check_known_classes
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import ImageFolderReader, read_image_folder
from finetune.errors import DataError
from tests.support.labelled_data import write_files


def open_folder(root: Path, names: list[str]) -> ImageFolderReader:
    return read_image_folder(list_files("train", write_files(root, {f"{name}/a.png": b"" for name in names})))


@pytest.mark.parametrize(
    "names",
    [
        ["Pos", "pos"],
        ["01", "1"],
        ["1.0", "1"],
        ["-0", "0"],
        ["a", " a "],
        ["a  b", "a b"],
        ["caf\u00e9", "cafe\u0301"],
        ["\uff21", "A"],
        ["stra\u00dfe", "STRASSE"],
    ],
)
def test_classes_with_similar_names_are_warned_of_and_kept_apart(
    tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    labels = build_label_map(open_folder(tmp_path, names), multi_label=False, num_classes=None)
    assert sorted(labels.names) == sorted(names)
    assert "look alike; correct the labels if they are one class" in caplog.text


def test_validation_folders_with_other_leading_zeros_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'1' \(did you mean '01'\?\) in 1 records such as 1/a\.png"):
        check_known_classes(open_folder(tmp_path, ["1"]), LabelMap(("01", "02", "10"), multi_label=False))


@pytest.mark.parametrize("parent", ["data", "data/more"])
def test_parent_of_the_class_folders_is_named(tmp_path: Path, parent: str) -> None:
    reader = open_folder(tmp_path, [f"{parent}/cat", f"{parent}/dog"])
    with pytest.raises(DataError, match=rf"only one class, 'data'.*'{parent}' contains the folders 'cat', 'dog'"):
        build_label_map(reader, multi_label=False, num_classes=None)


@pytest.mark.parametrize("names", [("1.0", "2.0", "3.0"), ("3", "x", "y"), ("01", "02", "03")])
def test_numeric_label_is_not_a_position_if_classes_are_numbers(names: tuple[str, ...]) -> None:
    assert LabelMap(names, multi_label=False).resolve("1") is None
    assert LabelMap(("a", "b", "c"), multi_label=False).resolve("1") == "b"
