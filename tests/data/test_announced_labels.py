"""Label files are read in every common format, and numeric labels then refer to their classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.announced_labels import AnnouncedReader, read_label_file
from finetune.data.labels import LabelMap
from finetune.errors import DataError
from tests.support.labelled_data import MemoryReader, write_files


@pytest.mark.parametrize(
    "content",
    [
        "dog\ncat\n7\n",
        "\ufeffdog\r\n\r\n cat \r\n7",
        '["dog", "cat", 7]',
        '{"0": "dog", "2": "7", "1": "cat"}',
        '{"7": "2", "cat": 1, "dog": 0}',
        '{"document-version": "2018-11-28", "labels": [{"label": "dog"}, {"label": "cat"}, {"label": "7"}]}',
    ],
)
def test_label_file_formats(tmp_path: Path, content: str) -> None:
    write_files(tmp_path, {"classes": content.encode()})
    assert read_label_file("labels", tmp_path) == ("dog", "cat", "7")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, r"contains 0 files \(none\); expected one"),
        ({"a.txt": "a", "b.txt": "b"}, r"contains 2 files \(a\.txt, b\.txt\)"),
        ({"a.json": "[1"}, "a.json is not a valid label file: "),
        ({"a.json": '{"a": 0, "b": 2}'}, "numbers must be 0 to 1"),
        ({"a.json": '{"a": 0, "b": 0}'}, "numbers must be 0 to 1"),
        ({"a.json": '{"a": "x"}'}, "is not a valid label file: invalid literal"),
        ({"a.json": "[[1]]"}, "a text or a number"),
        ({"a.json": '["a", null]'}, "empty class name"),
    ],
)
def test_invalid_label_file_is_refused(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_label_file("labels", write_files(tmp_path, {key: text.encode() for key, text in files.items()}))
    assert str(caught.value).startswith("channel 'labels'")


def test_numeric_labels_refer_to_announced_classes() -> None:
    reader = MemoryReader([(("a",), ("1",)), (("b",), ("cat",)), (("c",), ("2",))])
    named = AnnouncedReader(reader, LabelMap(("cat", "dog"), multi_label=False))
    assert [named.labels(index) for index in range(3)] == [("dog",), ("cat",), ("2",)]
    assert named.read(0).labels == ("dog",)
    assert (len(named), named.key(2), named.channel) == (3, reader.key(2), "train")
