"""Picture folders: what counts, in which order, and what is refused."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from finetune.data.channel_files import list_files
from finetune.data.image_folder import ImageFolderReader, read_image_folder
from finetune.errors import DataError
from labelled_data import write_files


def opened(root: Path) -> ImageFolderReader:
    return read_image_folder(list_files("train", root))


def keys(reader: ImageFolderReader) -> list[str]:
    return [reader.key(index) for index in range(len(reader))]


def test_the_first_folder_is_the_class_and_any_letter_case_counts(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.JPG": b"1", "cat/deep/er/b.jpeg": b"2", "dog/c.Png": b"3", "dog/d.webp": b"4"})
    write_files(tmp_path, {"dog/e.bmp": b"5"})
    reader = opened(tmp_path)
    assert reader.task == "image-classification"
    assert keys(reader) == ["cat/a.JPG", "cat/deep/er/b.jpeg", "dog/c.Png", "dog/d.webp", "dog/e.bmp"]
    assert [reader.labels(index) for index in range(5)] == [("cat",)] * 2 + [("dog",)] * 3
    record = reader.read(1)
    assert (record.key, record.content, record.labels) == ("cat/deep/er/b.jpeg", b"2", ("cat",))


def test_order_is_that_of_the_keys_bytes_and_not_of_creation(tmp_path: Path) -> None:
    names = ["b/1.png", "a/10.png", "a/9.png", "a-b/1.png", "ä/1.png", "B/1.png", "a/Z.png", "😀/1.png", "\uff5e/1.png"]
    for name in names:
        write_files(tmp_path, {name: b""})
    assert keys(opened(tmp_path)) == sorted(names, key=str.encode)


def test_hidden_and_foreign_files_are_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clutter = [".DS_Store", "cat/.hidden.png", "cat/.ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "cat/Thumbs.db"]
    foreign = ["cat/b.gif", "cat/c.GIF", "cat/notes.txt", "LICENSE"]
    write_files(tmp_path, dict.fromkeys(["cat/a.png", "dog/a.png", *clutter, *foreign], b""))
    with caplog.at_level(logging.INFO):
        reader = opened(tmp_path)
    assert keys(reader) == ["cat/a.png", "dog/a.png"]
    assert [record.message for record in caplog.records] == [
        "channel 'train': passed over what is no picture: 2 .gif, 1 .txt, 1 without ending"
    ]


def test_an_empty_class_folder_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "dog/a.png": b""})
    (tmp_path / "emu" / "nested").mkdir(parents=True)
    reader = opened(tmp_path)
    assert {reader.labels(index) for index in range(len(reader))} == {("cat",), ("dog",)}
    assert "'emu' is empty" in caplog.text


def test_a_class_folder_without_readable_pictures_does_not_vanish(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "emu/a.tiff": b"", "emu/b.tiff": b""})
    with pytest.raises(DataError, match=r"'train'.*'emu' holds no picture.*2 \.tiff.*\.png"):
        opened(tmp_path)


def test_pictures_outside_of_class_folders_show_the_expected_layout(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": b"", "cat/a.png": b""})
    with pytest.raises(DataError, match=r"1 pictures lie outside.*a\.png.*train/<class>/<picture>.*'train_lst'"):
        opened(tmp_path)


def test_the_root_of_a_data_set_is_not_taken_for_two_classes(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(["train/cat/a.png", "train/dog/a.png", "Val/cat/b.png", "README.md"], b""))
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert str(caught.value) == (
        "channel 'train': its folders are 'Val', 'train', and all pictures lie in folders below these, so it is the"
        " root of a data set and not a folder per class; give each part a channel: validation=.../Val, train=.../train"
    )


@pytest.mark.parametrize(
    "names",
    [
        ["train/a.png", "test/b.png"],
        ["train/deep/a.png", "test/b.png"],
        ["train/deep/a.png", "plane/deep/b.png"],
        ["train/a.png", "bus/b.png", "val/c.png"],
    ],
)
def test_classes_may_be_called_like_parts_of_a_data_set(tmp_path: Path, names: list[str]) -> None:
    write_files(tmp_path, dict.fromkeys(names, b""))
    reader = opened(tmp_path)
    found = {label for index in range(len(reader)) for label in reader.labels(index)}
    assert found == {name.partition("/")[0] for name in names}


def test_no_pictures_at_all_says_what_is_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.tiff": b"", "b.zip": b""})
    with pytest.raises(DataError, match=r"no pictures in .*1 \.tiff, 1 \.zip.*folder per class"):
        opened(tmp_path)


def test_links_may_not_lead_out_of_the_channel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_files(tmp_path / "train", {"cat/a.png": b"in", "dog/a.png": b""})
    secret = write_files(tmp_path / "elsewhere", {"secret.png": b"out"})
    (root / "cat" / "inside.png").symlink_to(root / "cat" / "a.png")
    (root / "cat" / "outside.png").symlink_to(secret / "secret.png")
    (root / "cat" / "dangling.png").symlink_to("nowhere.png")
    (root / "cat" / "loop.png").symlink_to("loop.png")
    (root / "emu").symlink_to(secret, target_is_directory=True)
    (root / "cat" / "up").symlink_to(root, target_is_directory=True)
    reader = opened(root)
    assert keys(reader) == ["cat/a.png", "cat/inside.png", "dog/a.png"]
    assert reader.read(1).content == b"in"
    assert "passed over 5 symbolic links" in caplog.text
    assert "cat/dangling.png" in caplog.text


def test_a_channel_may_itself_be_a_link(tmp_path: Path) -> None:
    write_files(tmp_path / "real", {"cat/a.png": b"", "dog/a.png": b""})
    (tmp_path / "train").symlink_to("real", target_is_directory=True)
    assert len(opened(tmp_path / "train")) == 2


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "dog/a.png": b""})
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert keys(opened(tmp_path)) == ["cat/a.png", "dog/a.png"]


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    write_files(tmp_path, {"caf\u00e9/a.png": b"", "cafe\u0301/b.png": b""})
    reader = opened(tmp_path)
    assert [reader.labels(index) for index in range(2)] == [("caf\u00e9",)] * 2


def test_a_name_that_is_not_utf8_is_shown_and_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b""})
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(DataError, match=r"'train'.*caf\\xe9 is not UTF-8"):
        opened(tmp_path)


def test_a_picture_that_disappears_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "dog/a.png": b""})
    reader = opened(tmp_path)
    (tmp_path / "cat" / "a.png").unlink()
    with pytest.raises(DataError, match=r"'train': cat/a\.png cannot be read: No such file"):
        reader.read(0)


def test_many_empty_class_folders_are_a_few_lines_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(200):
        (tmp_path / f"class-{number}").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"picture")
    read_image_folder(list_files("train", tmp_path))
    assert len(caplog.messages) == 4
    assert caplog.messages[-1].endswith("so are 197 more class folders")
