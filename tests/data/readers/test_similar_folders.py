"""Class folders with similar names stay separate classes, with a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.labels import LabelMap, check_known, label_map_of
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import ImageFolderReader, read_image_folder
from finetune.errors import DataError
from tests.support.labelled_data import write_files


def opened(root: Path, names: list[str]) -> ImageFolderReader:
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
def test_classes_with_similar_names_are_a_warning_and_stay_apart(
    tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    labels = label_map_of(opened(tmp_path, names), multi_label=False, num_classes=None)
    assert sorted(labels.names) == sorted(names)
    assert "look alike; correct the labels if they are one class" in caplog.text


def test_folders_of_validation_with_other_zeros_are_refused_with_the_name_of_the_same_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'1' \(did you mean '01'\?\) in 1 records such as 1/a\.png"):
        check_known(opened(tmp_path, ["1"]), LabelMap(("01", "02", "10"), multi_label=False))


@pytest.mark.parametrize("around", ["data", "data/more"])
def test_a_folder_around_the_class_folders_is_named(tmp_path: Path, around: str) -> None:
    reader = opened(tmp_path, [f"{around}/cat", f"{around}/dog"])
    with pytest.raises(DataError, match=rf"one class only, 'data'.*folder '{around}' holds the folders 'cat', 'dog'"):
        label_map_of(reader, multi_label=False, num_classes=None)


@pytest.mark.parametrize("names", [("1.0", "2.0", "3.0"), ("3", "x", "y"), ("01", "02", "03")])
def test_a_label_is_no_position_where_classes_are_named_by_numbers(names: tuple[str, ...]) -> None:
    assert LabelMap(names, multi_label=False).named("1") is None
    assert LabelMap(("a", "b", "c"), multi_label=False).named("1") == "b"
