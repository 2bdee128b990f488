"""Opening a channel detects the task and rejects unsuitable contents."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.channels import IMAGE_TYPES, TEXT_TYPES
from finetune.data.labels import build_label_map
from finetune.data.readers.open_channel import TABLE_TYPES, ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.errors import DataError, UserError
from tests.support.labelled_data import data_spec, write_files

IMAGES = {"cat/a.png": b"", "dog/b.png": b""}
TABLE = {"a.csv": b"label,text\na,x\nb,y\n"}
IMAGES_AND_TABLE = IMAGES | TABLE


def open_files(root: Path, files: dict[str, bytes], content_type: str | None = None, **spec: object) -> Reader:
    return open_channel(ChannelSource("train", write_files(root, files), None, content_type), data_spec(**spec))


def test_task_is_inferred_from_the_files(tmp_path: Path) -> None:
    assert open_files(tmp_path / "a", IMAGES).task == "image-classification"
    assert open_files(tmp_path / "b", TABLE).task == "text-classification"


def test_images_and_tables_require_the_task(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'train' contains 2 images \(cat/a\.png and 1 more\) and 1 tables .*set task="
    ):
        open_files(tmp_path, IMAGES_AND_TABLE)


@pytest.mark.parametrize("content_type", sorted(IMAGE_TYPES))
def test_image_content_types_imply_the_task(tmp_path: Path, content_type: str) -> None:
    assert open_files(tmp_path, IMAGES_AND_TABLE, content_type).task == "image-classification"


def test_table_content_types_imply_the_task(tmp_path: Path) -> None:
    assert open_files(tmp_path, IMAGES_AND_TABLE, "Text/CSV; charset=utf-8").task == "text-classification"
    assert set(TABLE_TYPES) == TEXT_TYPES


def test_requested_task_overrides_the_content_type(tmp_path: Path) -> None:
    assert (
        open_files(tmp_path, IMAGES_AND_TABLE, "text/csv", task="image-classification").task == "image-classification"
    )
    assert open_files(tmp_path, IMAGES_AND_TABLE, task="text-classification").task == "text-classification"


def test_task_without_matching_files_raises(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"task=text-classification, but channel 'train' contains no tables, only images"
    ):
        open_files(tmp_path / "a", IMAGES, task="text-classification")
    with pytest.raises(
        UserError, match=r"task=image-classification, but .* contains no images, only tables \(a\.csv\)"
    ):
        open_files(tmp_path / "b", TABLE, task="image-classification")


def test_missing_channel_raises_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"channel 'train': .*/nowhere does not exist"):
        open_channel(ChannelSource("train", tmp_path / "nowhere"), data_spec())
    with pytest.raises(DataError, match=r"channel 'train': .*/a\.csv is not a folder"):
        open_channel(ChannelSource("train", write_files(tmp_path, TABLE) / "a.csv"), data_spec())


def test_empty_channel_raises_with_the_expected_contents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'train' is empty: .*folder per class.*tables with a label"):
        open_files(tmp_path, {".hidden": b""})
    with pytest.raises(DataError, match=r"'train' is empty: .*expected tables with a label"):
        open_files(tmp_path, {}, task="text-classification")


@pytest.mark.parametrize("task", [None, "image-classification", "text-classification"])
def test_unsupported_files_are_counted(tmp_path: Path, task: str | None) -> None:
    with pytest.raises(DataError, match=r"'train': .*2 \.zip, 1 without ending.*expected "):
        open_files(tmp_path, {"a.zip": b"", "b.zip": b"", "c": b""}, task=task)


def test_lists_allow_several_labels(tmp_path: Path) -> None:
    images = write_files(tmp_path / "train", IMAGES | {"loose.png": b""})
    lists = write_files(tmp_path / "train_lst", {"a.lst": b"0\t1\t0\tcat/a.png\n1\t1\t1\tloose.png\n"})
    source = ChannelSource("train", images, lists)
    reader = open_channel(source, data_spec(multi_label=True))
    assert [reader.labels(index) for index in range(2)] == [("0",), ("0", "1")]
    with pytest.raises(UserError, match="task=text-classification, but channel 'train_lst' lists images"):
        open_channel(source, data_spec(task="text-classification"))


def test_multi_label_with_class_folders_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"multi_label=true, but channel 'train' has a folder per class.*'train_lst'"):
        open_files(tmp_path, IMAGES, multi_label=True)


def test_channel_with_only_skipped_links_raises(tmp_path: Path) -> None:
    root = write_files(tmp_path / "train", {})
    outside = write_files(tmp_path / "elsewhere", {"cat/1.png": b"", "dog/1.png": b""})
    for name in ("cat", "dog"):
        (root / name).symlink_to(outside / name, target_is_directory=True)
    with pytest.raises(DataError, match=r"contains no files, only 2 symbolic links .*: cat, dog; copy"):
        open_files(root, {})


def test_empty_class_folders_raise(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"is empty: no files in .*, only empty folders \('cat', 'dog'\)"):
        open_files(tmp_path / "train", {})


@pytest.mark.parametrize("keys", [["images/1.png", "images/2.png"], ["1.png", "2.png"]])
def test_images_without_class_folders_next_to_a_table_raise(tmp_path: Path, keys: list[str]) -> None:
    files = dict.fromkeys(keys, b"") | {"labels.csv": b"file,label\n1.png,a\n2.png,b\n"}
    with pytest.raises(
        DataError, match=r"2 images .* and table labels\.csv, but image classes are not read from tables"
    ):
        open_files(tmp_path, files)
    with pytest.raises(DataError, match=r"outside class folders|only one class") as raised:
        reader = open_files(tmp_path, files, task="image-classification")
        build_label_map(reader, multi_label=False, num_classes=None)
    assert "channel 'train'" in str(raised.value)


def test_task_is_inferred_from_images_without_ending(tmp_path: Path) -> None:
    assert len(open_files(tmp_path, {"cat/1": b"\xff\xd8\xff\xe0", "dog/1": b"GIF89a", "notes.md": b"no image"})) == 2
