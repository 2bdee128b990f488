"""Records with equal content have equal clues in every reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.data.announced_labels import AnnouncedReader
from finetune.data.in_memory import InMemoryReader
from finetune.data.labels import LabelMap
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import read_image_folder
from finetune.data.record import Content, Reader, Record
from finetune.data.tables.reader import read_text_tables
from tests.support.labelled_data import write_files


def image_folder(folder: Path) -> Reader:
    write_files(folder, {"a/1.png": b"one", "a/2.png": b"one", "b/3.png": b"three", "b/4.png": b"four!"})
    return read_image_folder(list_files("train", folder))


def text_table(folder: Path) -> Reader:
    rows = "label,text\na,one\nb,one\na,three\na,fours\n"
    write_files(folder, {"t.csv": rows.encode()})
    return read_text_tables(list_files("train", folder), parse_hyperparameters({"label_column": "label"}).data)


def announced_labels(folder: Path) -> Reader:
    return AnnouncedReader(image_folder(folder), LabelMap(("b", "a"), multi_label=False))


def in_memory(folder: Path) -> Reader:
    contents: list[Content] = [b"one", b"one", ("th", "ree"), b"fours"]
    return InMemoryReader(
        "train", "image-classification", [Record(str(index), content, ()) for index, content in enumerate(contents)]
    )


@pytest.mark.parametrize("read", [image_folder, text_table, announced_labels, in_memory])
def test_contents_of_equal_size_have_equal_clues(tmp_path: Path, read: object) -> None:
    assert callable(read)
    reader = read(tmp_path)
    assert [reader.clue(index) for index in range(4)] == [3, 3, 5, 5]


def test_missing_file_has_its_own_clue(tmp_path: Path) -> None:
    reader = image_folder(tmp_path)
    (tmp_path / "b" / "3.png").unlink()
    assert [reader.clue(index) for index in range(4)] == [3, 3, -1, 5]
