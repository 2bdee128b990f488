"""Image folders: the files that count, their order, and the rejected layouts."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from finetune.data.readers import channel_files
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.dataset_root import check_class_folders
from finetune.data.readers.image_folder import ImageFolderReader, read_image_folder
from finetune.errors import DataError
from tests.support.labelled_data import write_files


def open_folder(root: Path) -> ImageFolderReader:
    return read_image_folder(list_files("train", root))


def keys(reader: ImageFolderReader) -> list[str]:
    return [reader.key(index) for index in range(len(reader))]


def test_first_folder_is_the_class_and_endings_are_case_insensitive(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.JPG": b"1", "cat/deep/er/b.jpeg": b"2", "dog/c.Png": b"3", "dog/d.webp": b"4"})
    write_files(tmp_path, {"dog/e.bmp": b"5"})
    reader = open_folder(tmp_path)
    assert reader.task == "image-classification"
    assert keys(reader) == ["cat/a.JPG", "cat/deep/er/b.jpeg", "dog/c.Png", "dog/d.webp", "dog/e.bmp"]
    assert [reader.labels(index) for index in range(5)] == [("cat",)] * 2 + [("dog",)] * 3
    record = reader.read(1)
    assert (record.key, record.content, record.labels) == ("cat/deep/er/b.jpeg", b"2", ("cat",))


def test_images_are_sorted_by_the_bytes_of_their_keys(tmp_path: Path) -> None:
    names = ["b/1.png", "a/10.png", "a/9.png", "a-b/1.png", "ä/1.png", "B/1.png", "a/Z.png", "😀/1.png", "\uff5e/1.png"]
    for name in names:
        write_files(tmp_path, {name: b""})
    assert keys(open_folder(tmp_path)) == sorted(names, key=str.encode)


def test_other_files_are_counted_by_class_and_ending_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system_files = [
        ".DS_Store",
        "cat/.hidden.png",
        "cat/.ipynb_checkpoints/a.png",
        "__MACOSX/cat/a.png",
        "cat/Thumbs.db",
    ]
    system_files += ["cat/._a.png", "dog/.@__thumb/a.png", ".AppleDouble/a.png"]
    other_files = ["cat/b.heic", "cat/c.HEIC", "cat/notes.txt", "dog/film.mp4", "LICENSE"]
    write_files(tmp_path, dict.fromkeys(["cat/a.png", "dog/a.png", *system_files, *other_files], b""))
    with caplog.at_level(logging.INFO):
        reader = open_folder(tmp_path)
    assert keys(reader) == ["cat/a.png", "dog/a.png"]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "channel 'train': skipped 5 files that are not supported images: 2 .heic, 1 .mp4, 1 .txt,"
            " 1 without ending; by class: 'cat' 3 of 4 files (2 .heic, 1 .txt), 'dog' 1 of 2 files (1 .mp4)",
        )
    ]
    assert reader.other_files == {"": {"without ending": 1}, "cat": {".heic": 2, ".txt": 1}, "dog": {".mp4": 1}}


def test_empty_class_folder_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "dog/a.png": b""})
    (tmp_path / "emu" / "nested").mkdir(parents=True)
    reader = open_folder(tmp_path)
    assert {reader.labels(index) for index in range(len(reader))} == {("cat",), ("dog",)}
    assert "skipped class folder 'emu', which is empty" in caplog.text


def test_class_folder_without_supported_images_raises(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "emu/a.heic": b"", "emu/b.heic": b""})
    with pytest.raises(DataError, match=r"'train'.*'emu' contains no supported image.*2 \.heic.*\.png"):
        open_folder(tmp_path)


def test_images_outside_class_folders_raise(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": b"", "cat/a.png": b""})
    with pytest.raises(
        DataError, match=r"1 images are outside class folders.*a\.png.*train/<class>/<image>.*'train_lst'"
    ):
        open_folder(tmp_path)


def test_dataset_root_raises(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(["train/cat/a.png", "train/dog/a.png", "Val/cat/b.png", "README.md"], b""))
    with pytest.raises(
        DataError, match=r"folders are 'Val', 'train'.*dataset root.*: validation=\.\.\./Val, train=\.\.\./train$"
    ):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["train/a.png", "test/b.png", "bus/c.png"],
        ["train/deep/a.png", "test/b.png", "bus/c.png"],
        ["train/deep/a.png", "plane/deep/b.png"],
        ["train/a.png", "bus/b.png", "val/c.png"],
    ],
)
def test_classes_may_be_named_like_splits(tmp_path: Path, names: list[str]) -> None:
    write_files(tmp_path, dict.fromkeys(names, b""))
    reader = open_folder(tmp_path)
    classes = {label for index in range(len(reader)) for label in reader.labels(index)}
    assert classes == {name.partition("/")[0] for name in names}


def test_channel_without_images_raises_with_counts(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.heic": b"", "b.zip": b""})
    with pytest.raises(DataError, match=r"no images in .*1 \.heic, 1 \.zip.*folder per class"):
        open_folder(tmp_path)


def test_links_outside_the_channel_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_files(tmp_path / "train", {"cat/a.png": b"in", "dog/a.png": b""})
    secret = write_files(tmp_path / "elsewhere", {"secret.png": b"out"})
    (root / "cat" / "inside.png").symlink_to(root / "cat" / "a.png")
    (root / "cat" / "outside.png").symlink_to(secret / "secret.png")
    (root / "cat" / "dangling.png").symlink_to("nowhere.png")
    (root / "cat" / "loop.png").symlink_to("loop.png")
    (root / "cat" / "away").symlink_to(secret, target_is_directory=True)
    (root / "cat" / "up").symlink_to(root, target_is_directory=True)
    reader = open_folder(root)
    assert keys(reader) == ["cat/a.png", "cat/inside.png", "dog/a.png"]
    assert reader.read(1).content == b"in"
    assert "skipped 5 symbolic links" in caplog.text
    assert "cat/dangling.png" in caplog.text
    assert reader.other_files == {"cat": {"symbolic link": 5}}


@pytest.mark.parametrize("target", ["../elsewhere", "nowhere", "."])
def test_class_folder_that_is_a_skipped_link_raises(tmp_path: Path, target: str) -> None:
    root = write_files(tmp_path / "train", {"cat/a.png": b"", "dog/a.png": b""})
    write_files(tmp_path / "elsewhere", {"a.png": b""})
    (root / "emu").symlink_to(target, target_is_directory=True)
    with pytest.raises(DataError, match=r"'train': class 'emu' would be lost, since 'emu' is a symbolic link"):
        open_folder(root)


def test_class_with_only_skipped_links_raises(tmp_path: Path) -> None:
    root = write_files(tmp_path / "train", {"cat/a.png": b"", "dog/a.png": b""})
    outside = write_files(tmp_path / "elsewhere", {"a.png": b""})
    (root / "emu").mkdir()
    for number in range(3):
        (root / "emu" / f"{number}.png").symlink_to(outside / "a.png")
    with pytest.raises(DataError, match=r"class 'emu' would be lost.*emu/1\.png, emu/2\.png; copy"):
        open_folder(root)


def test_links_within_the_channel_are_followed(tmp_path: Path) -> None:
    root = write_files(tmp_path, {".store/1/a.png": b"cat", ".store/2/deep/b.png": b"dog"})
    (root / "cat").symlink_to(".store/1", target_is_directory=True)
    (root / "dog").symlink_to(root / ".store" / "2", target_is_directory=True)
    (root / "dog" / "deep" / "back").symlink_to(root / "dog", target_is_directory=True)
    reader = open_folder(root)
    assert keys(reader) == ["cat/a.png", "dog/deep/b.png"]
    assert [reader.read(index).content for index in range(2)] == [b"cat", b"dog"]
    assert [reader.labels(index) for index in range(2)] == [("cat",), ("dog",)]


def test_links_to_each_other_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        write_files(tmp_path, {f"{name}/1.png": b""})
        (tmp_path / name / "next").symlink_to(f"../{other}", target_is_directory=True)
    assert len(open_folder(tmp_path)) == 9
    monkeypatch.setattr(channel_files, "_MAX_LINKED_FOLDERS", 3)
    with pytest.raises(DataError, match=r"symbolic links .* more than 3 folders"):
        open_folder(tmp_path)


def test_channel_may_be_a_link(tmp_path: Path) -> None:
    write_files(tmp_path / "real", {"cat/a.png": b"", "dog/a.png": b""})
    (tmp_path / "train").symlink_to("real", target_is_directory=True)
    assert len(open_folder(tmp_path / "train")) == 2


def test_named_pipe_is_ignored(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "dog/a.png": b""})
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert keys(open_folder(tmp_path)) == ["cat/a.png", "dog/a.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["0.5", "1.0", "2.0"],
        ["01", "1", "1e0"],
        ["-1.00", "+1"],
        [" a ", "a"],
        ["A", "a"],
        ["cafe\u0301", "caf\u00e9"],
        ["None", "nan", "true", "a|b", "[1]", "="],
        ["#", "$", "@", "_"],
        ["#one", "#two"],
    ],
)
def test_class_names_equal_folder_names(tmp_path: Path, names: list[str]) -> None:
    write_files(tmp_path, {f"{name}/a.png": b"" for name in names})
    reader = open_folder(tmp_path)
    assert sorted(reader.labels(index)[0] for index in range(len(reader))) == sorted(names)


def test_name_that_is_not_utf8_raises(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b""})
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(DataError, match=r"'train'.*caf\\xe9 is not UTF-8"):
        open_folder(tmp_path)


def test_deleted_image_raises(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": b"", "dog/a.png": b""})
    reader = open_folder(tmp_path)
    (tmp_path / "cat" / "a.png").unlink()
    with pytest.raises(DataError, match=r"'train': cat/a\.png cannot be read: No such file"):
        reader.read(0)


JPEG, PNG, GIF = b"\xff\xd8\xff\xe0rest", b"\x89PNG\r\n\x1a\nrest", b"GIF89arest"


def test_images_are_recognized_by_ending_or_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    by_ending = ["a.tif", "b.TIFF", "c.gif", "d.JFIF", "e.bmp", "f.webp", "g.ppm", "h.pgm", "i.jpe", "j.Gif"]
    by_content = {
        "k": JPEG,
        "l.jpg_large": JPEG,
        "m.jpg!w200": PNG,
        "n.txt": GIF,
        "o.dat": b"P6 2 2 255\n",
        "p.1": JPEG,
    }
    by_content |= {"q.x": b"RIFF\0\0\0\0WEBPVP8 ", "r.x": b"BM" + bytes(12) + b"\x28\0\0\0", "s.x": b"MM\0*\0\0\0\x08"}
    write_files(tmp_path, {f"cat/{name}": b"" for name in by_ending})
    write_files(tmp_path, {f"cat/{name}": content for name, content in by_content.items()} | {"dog/a.png": b""})
    reader = open_folder(tmp_path)
    assert keys(reader) == sorted([*(f"cat/{name}" for name in (*by_ending, *by_content)), "dog/a.png"])
    assert not caplog.records
    assert not reader.other_files


def test_content_that_resembles_an_image_is_skipped(tmp_path: Path) -> None:
    others = {"a.txt": b"BMW sells cars, of many kinds", "b.wav": b"RIFF\0\0\0\0WAVEfmt ", "c.txt": b"P1 is a name"}
    others |= {"d.nef": b"II*\0\x08\0\0\0", "e.txt": b"", "f.psd": b"8BPS", "g.svg": b"<svg/>", "h.eps": b"%!PS"}
    write_files(tmp_path, {f"cat/{name}": content for name, content in others.items()})
    write_files(tmp_path, {"cat/a.png": b"", "dog/a.png": b""})
    assert keys(open_folder(tmp_path)) == ["cat/a.png", "dog/a.png"]


@pytest.mark.parametrize(
    ("file_keys", "message"),
    [
        (["training_set/cat/1.png", "training_set/dog/1.png", "test_set/cat/2.png", "test_set/dog/2.png"],
         r"'test_set', 'training_set'.*test=\.\.\./test_set, train=\.\.\./training_set"),
        (["seg_train/seg_train/cat/1.png", "seg_train/seg_train/dog/1.png", "seg_test/seg_test/cat/2.png",
          "seg_test/seg_test/dog/2.png", "seg_pred/seg_pred/3.png"],
         r"test=\.\.\./seg_test/seg_test, train=\.\.\./seg_train/seg_train"),
        ([f"fold_{fold}/{name}/1.png" for fold in range(1, 6) for name in ("cat", "dog")], r"such as \.\.\./fold_1"),
        ([f"fold{fold}/1.png" for fold in range(1, 6)], "dataset root"),
        (["2019/cat/1.png", "2019/dog/1.png", "2020/cat/1.png", "2020/dog/1.png", "2020/emu/1.png"],
         r"'2019', '2020' contain folders of the same names \('cat', 'dog'\).*class_names=2019,2020"),
        (["a/x/cat/1.png", "a/x/dog/1.png", "b/y/cat/1.png", "b/y/dog/1.png"], r"such as \.\.\./a/x"),
        (["train/cat/1.png", "train/dog/1.png", "test/1.png"], "dataset root"),
        (["train/1.png", "test/1.png"], r"dataset root.*class_names=test,train"),
        (["train2017/1.png", "val2017/1.png"], "dataset root"),
        (["cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"], "use a folder per split"),
        (["A/train/cat/1.png", "A/test/cat/1.png", "B/train/cat/1.png", "B/test/cat/1.png"], "use a folder per split"),
        (["thumbs/1.png", "cat/1.png", "cat/thumbs/1.png", "dog/1.png", "dog/thumbs/1.png"],
         "folder 'thumbs' .* in 2 of them"),
        (["@tmp/1.png", "cat/1.png", "dog/1.png"], "'@tmp' looks like a system folder.*class_names=@tmp,cat"),
        (["#old/cat/1.png", "cat/1.png", "dog/1.png"], "'#old' looks like"),
        (["$WINDOWS/1.png", "cat/1.png", "dog/1.png"], "'\\$WINDOWS' looks like"),
    ],
)  # fmt: skip
def test_folders_that_are_not_classes_raise(tmp_path: Path, file_keys: list[str], message: str) -> None:
    listing = list_files("train", write_files(tmp_path, dict.fromkeys(file_keys, b"")))
    with pytest.raises(DataError, match=message):
        read_image_folder(listing)
    names = tuple(sorted({key.partition("/")[0] for key in file_keys}))
    assert len(read_image_folder(listing, names)) == len(file_keys)


def test_nested_images_belong_to_the_first_folder_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, dict.fromkeys(["animal/cat/1.png", "animal/dog/1.png", "plant/1.png"], b""))
    reader = open_folder(tmp_path)
    assert [reader.labels(index) for index in range(3)] == [("animal",), ("animal",), ("plant",)]
    assert "1 of 2 class folders have images in sub-folders; the class is the first folder" in caplog.text
    assert "'animal' for 'animal/cat', 'animal/dog'" in caplog.text


def test_system_folders_are_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    system_files = [
        "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/S-1/1.png",
    ]
    system_files += ["lost+found/1.png", "#recycle/cat/1.png", "System Volume Information/1.png"]
    write_files(tmp_path, dict.fromkeys(["cat/1.png", "dog/1.png", *system_files], b""))
    assert keys(open_folder(tmp_path)) == ["cat/1.png", "dog/1.png"]
    assert "skipped system folders of storage devices and operating systems: '#recycle' (1)" in caplog.text
    assert "'@eaDir' (2)" in caplog.text


def test_class_folder_with_leading_underscore_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, dict.fromkeys(["_thumbs/1.png", "cat/1.png", "dog/1.png"], b""))
    assert len(open_folder(tmp_path)) == 3
    assert "folder '_thumbs' is treated as a class" in caplog.text


def test_deeply_nested_folders_are_accepted() -> None:
    deep = "/".join(["d"] * 2000)
    check_class_folders("train", [f"cat/{deep}/1.png", f"cat/{deep}/e/2.png", "cat/3.png", "dog/1.png"])


def test_many_empty_class_folders_are_summarized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(200):
        (tmp_path / f"class-{number}").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"picture")
    read_image_folder(list_files("train", tmp_path))
    assert len(caplog.messages) == 4
    assert caplog.messages[-1].endswith("skipped 197 more empty class folders")
