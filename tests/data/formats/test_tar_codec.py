"""Samples of tar shards: one record per image, with its class, identical from files and streams."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune.data.formats import tar_codec
from finetune.data.formats.codec import StreamLayout, choose_codec
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.framing.window import Window
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.errors import DataError, JobError
from tests.support.labelled_data import data_spec, write_files
from tests.support.stream_writers import split_chunks

LABELLED = {"png": b"\x89PNG\r\n\x1a\n", "cls": b"1"}
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"
Records = list[tuple[bytes, tuple[str, ...]]]


def tar(*archives: Mapping[str, bytes]) -> bytes:
    """Concatenated archives, each with the given files."""
    stream = b""
    for files in archives:
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        stream += target.getvalue()
    return stream


def from_files(folder: Path, stream: bytes, **spec: object) -> Records:
    source = ChannelSource("train", write_files(folder, {"a.tar.gz": gzip.compress(stream)}), scratch=folder.parent)
    reader = open_channel(source, data_spec(**spec))
    records = [reader.read(index) for index in range(len(reader))]
    return [(record.content, record.labels) for record in records if isinstance(record.content, bytes)]


def from_stream(stream: bytes, **spec: object) -> Records:
    window = Window(split_chunks(stream, [1000]))
    options = DecodeOptions("image-classification", data_spec(**spec))
    codec = choose_codec(StreamLayout("channel 'train'", "tar"), options, window)
    decoded = [codec.decode(sample) for sample in codec.split_records(window)]
    return [(files.content, files.labels) for files in decoded if isinstance(files.content, bytes)]


def read(folder: Path, stream: bytes, **spec: object) -> Records:
    """The records, which are the same from a file and from a stream."""
    records = from_files(folder / "files", stream, **spec)
    assert records == from_stream(stream, **spec)
    return records


def refusal_message(folder: Path, stream: bytes, **spec: object) -> str:
    """The error message, which is the same for a file and for a stream."""
    with pytest.raises(JobError) as in_file:
        from_files(folder / "files", stream, **spec)
    with pytest.raises((JobError, ValueError)) as in_stream:
        from_stream(stream, **spec)
    reason = str(in_stream.value).partition("train': ")[2] or str(in_stream.value)
    assert reason[:60] in str(in_file.value)
    return str(in_file.value)


@pytest.mark.parametrize("prefix", ["", "./", "data/", "data/train/"])
def test_images_with_numbered_names_are_separate_records(tmp_path: Path, prefix: str) -> None:
    files = {
        f"{prefix}{name}/{name}.{number}.jpg": JPEG + bytes([number]) for name in ("cat", "dog") for number in range(5)
    }
    files |= {f"{prefix}emu/emu.v1.{number}.PNG": PNG + bytes([number]) for number in range(3)}
    files |= {f"{prefix}emu/fox.x.y": PNG, f"{prefix}emu/fox.z.y": JPEG, f"{prefix}emu/plain.tif": b"II*\0"}
    expected = [(content, (name.rpartition("/")[0].rpartition("/")[2],)) for name, content in files.items()]
    assert read(tmp_path, tar(files)) == expected


def test_class_folders_keep_their_names(tmp_path: Path) -> None:
    names = ["0.5", "1.0", "01", " a ", "e\u0301", "a|b"]
    records = read(tmp_path, tar({f"{name}/1.png": PNG for name in names}))
    assert [labels for _, labels in records] == [(name,) for name in names]


def test_sample_with_field_names_is_one_record(tmp_path: Path) -> None:
    files = {"s/0.depth.png": b"depth", "s/0.jpg": JPEG, "s/0.cls": b"7", "s/1.jpg": JPEG + b"1", "s/1.seg.png": PNG}
    files |= {"s/1.json": b'{"label": "x"}', "s/2.input.jpg": JPEG, "s/2.output.jpg": PNG, "s/2.cls": b"8"}
    assert read(tmp_path, tar(files)) == [(JPEG, ("7",)), (JPEG + b"1", ("x",)), (JPEG, ("8",))]


def test_requested_field_names_keep_the_naming_convention(tmp_path: Path) -> None:
    files = {
        "0.left.png": PNG,
        "0.right.png": JPEG,
        "0.cls": b"1",
        "1.left.png": PNG,
        "1.right.png": JPEG,
        "1.cls": b"2",
    }
    assert read(tmp_path, tar(files), image_column="right.png") == [(JPEG, ("1",)), (JPEG, ("2",))]


def test_names_with_dots_explain_the_naming_convention(tmp_path: Path) -> None:
    files = {f"photo.{number:06d}.{name}": content for number in range(60) for name, content in LABELLED.items()}
    message = refusal_message(tmp_path, tar(files))
    assert "has no field with a default name" in message
    assert "file names are split at the first dot" in message
    assert "rename the files" in message


@pytest.mark.parametrize(("limit", "value"), [("_MAX_FILES", 50), ("_MAX_BYTES", 25 * 9)])
def test_samples_are_limited_in_files_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(tar_codec, limit, value)
    files = {f"photo.{number:06d}.{name}": content for number in range(60) for name, content in LABELLED.items()}
    assert "with the same name up to the first dot, such as 'photo.000025.png'" in refusal_message(tmp_path, tar(files))


def test_image_without_label_and_folder_raises(tmp_path: Path) -> None:
    message = refusal_message(tmp_path, tar({"cat.0.jpg": JPEG, "cat.1.jpg": JPEG}))
    assert re.search("image 'cat.0.jpg' without a label.*no label file 'cat.0.cls'", message)


def test_unlabeled_images_of_the_same_name_raise(tmp_path: Path) -> None:
    assert "has 2 images with the same name ('jpg', 'png') and no label" in refusal_message(
        tmp_path, tar({"cat/1.jpg": JPEG, "cat/1.png": PNG, "dog/1.jpg": JPEG})
    )


@pytest.mark.parametrize(
    "names",
    [
        ["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg"],
        ["cat/1.jpg", "cat/deep/2.jpg", "dog/1.jpg"],
        ["a/train/cat/1.jpg", "a/test/cat/1.jpg"],
    ],
)
def test_class_folders_with_different_parents_raise(tmp_path: Path, names: list[str]) -> None:
    assert "the class folders are ambiguous" in refusal_message(tmp_path, tar(dict.fromkeys(names, JPEG)))


def test_each_archive_may_have_its_own_parent_folder(tmp_path: Path) -> None:
    shards = [{f"shard{number}/{name}/{number}.jpg": JPEG for name in ("cat", "dog")} for number in range(3)]
    assert [labels for _, labels in read(tmp_path, tar(*shards))] == [("cat",), ("dog",)] * 3


def test_labeled_samples_may_be_in_any_folder(tmp_path: Path) -> None:
    files = {
        "a/b/1.jpg": JPEG,
        "a/b/1.cls": b"1",
        "2.jpg": JPEG,
        "2.cls": b"2",
        "c/3.json": b'{"label": 3}',
        "c/3.jpg": JPEG,
    }
    assert [labels for _, labels in read(tmp_path, tar(files))] == [("1",), ("2",), ("3",)]


def test_system_files_are_not_records(tmp_path: Path) -> None:
    system_files = [
        "__MACOSX/cat/._1.jpg",
        "cat/._1.jpg",
        "cat/@eaDir/1.jpg/SYNO.jpg",
        "cat/.ipynb_checkpoints/1.jpg",
        ".DS_Store",
    ]
    files = {"cat/1.jpg": JPEG, "dog/1.jpg": PNG} | dict.fromkeys(system_files, b"x")
    assert read(tmp_path, tar(files)) == [(JPEG, ("cat",)), (PNG, ("dog",))]


def test_too_large_sample_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_codec, "_MAX_FILES", 2)
    with pytest.raises(DataError, match=r"channel 'train': a\.tar\.gz: .* more than 2 files"):
        from_files(tmp_path / "files", tar({f"a.b.{number}": b"" for number in range(3)}))
