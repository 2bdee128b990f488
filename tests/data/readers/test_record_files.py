"""Records in files are indexed, read individually in any order, and rejected where damaged."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from finetune.data.loading.split import stratified_split
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.errors import DataError, UserError
from tests.support.labelled_data import data_spec, write_files
from tests.support.stream_writers import MAGIC, escaped_recordio, example, recordio, tfrecord

PNG = b"\x89PNG\r\n\x1a\n"
FIXTURES = Path(__file__).parents[1] / "formats" / "fixtures"


def labeled_images(count: int) -> list[tuple[str, bytes]]:
    """Class numbers and pseudo images, some of which contain the magic word."""
    return [(str(number % 3), PNG + MAGIC * (number % 2) + bytes([number]) * number) for number in range(count)]


def rec(records: Sequence[tuple[str, bytes]]) -> bytes:
    headers = [struct.pack("<IfQQ", 0, float(label), 0, 0) for label, _ in records]
    return b"".join(escaped_recordio(header + content) for header, (_, content) in zip(headers, records, strict=True))


def attributes(records: Sequence[tuple[str, bytes]]) -> bytes:
    return b"".join(recordio(content) + recordio(label.encode()) for label, content in records)


def tfrecords(records: Sequence[tuple[str, bytes]]) -> bytes:
    return b"".join(
        tfrecord(example({"image/encoded": content, "image/class/label": int(label)})) for label, content in records
    )


def tar(records: Sequence[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT, ending: str = "png") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tar_format) as archive:
        for number, (label, content) in enumerate(records):
            for name, field in (
                (f"{'deep/' * 30}{number}.{ending}", content),
                (f"{'deep/' * 30}{number}.cls", label.encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(field)
                archive.addfile(info, io.BytesIO(field))
    return target.getvalue()


WRITERS: Mapping[str, Callable[[Sequence[tuple[str, bytes]]], bytes]] = {
    "rec": rec,
    "tfrecord": tfrecords,
    "tar": tar,
    "recordio": attributes,
}


def open_files(root: Path, files: dict[str, bytes], content_type: str | None = None, **spec: object) -> Reader:
    source = ChannelSource("train", write_files(root, files), None, content_type, scratch=root.parent)
    return open_channel(source, data_spec(**spec))


def contents(reader: Reader) -> list[tuple[str, object]]:
    """All contents, read in another order than that of the file."""
    indices = range(len(reader))
    records = {index: reader.read(index) for index in reversed(indices)}
    assert [records[index].labels for index in range(len(reader))] == [
        reader.labels(index) for index in range(len(reader))
    ]
    return [(records[index].labels[0], records[index].content) for index in indices]


@pytest.mark.parametrize("ending", WRITERS)
def test_records_of_several_files(tmp_path: Path, ending: str) -> None:
    write, records = WRITERS[ending], labeled_images(11)
    parts = {f"a.{ending}": records[:4], f"b.{ending}": [], f"c/d.{ending}": records[4:]}
    reader = open_files(tmp_path / "in", {key: write(part) if part else b"" for key, part in parts.items()})
    assert (reader.task, reader.channel) == ("image-classification", "train")
    assert [reader.key(index) for index in (0, 3, 4)] == [f"a.{ending}:0", f"a.{ending}:3", f"c/d.{ending}:0"]
    assert contents(reader) == records


@pytest.mark.parametrize("ending", WRITERS)
def test_compressed_files(tmp_path: Path, ending: str) -> None:
    records, write = labeled_images(6), WRITERS[ending]
    members = gzip.compress(write(records[:3])) + gzip.compress(write(records[3:]))
    assert contents(open_files(tmp_path / "in", {f"a.{ending}.gz": members})) == records


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_concatenated_archives(tmp_path: Path, tar_format: int) -> None:
    records = labeled_images(6)
    assert (
        contents(open_files(tmp_path / "in", {"a.tar": tar(records[:2], tar_format) + tar(records[2:], tar_format)}))
        == records
    )


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("train.tfrecord-00000-of-00010", None),
        ("train-00000-of-00010", "application/x-tfrecord"),
        ("TRAIN.TFRECORDS", None),
    ],
)
def test_usual_names_of_writers_are_recognized(tmp_path: Path, name: str, content_type: str | None) -> None:
    files = {name: tfrecords(labeled_images(3)), "_SUCCESS": b"", "train.idx": b"0"}
    assert contents(open_files(tmp_path / "in", files, content_type)) == labeled_images(3)


def test_records_of_other_software(tmp_path: Path) -> None:
    files = {"a.rec": (FIXTURES / "mxnet_images.rec").read_bytes()}
    reader = open_files(tmp_path / "in", files, multi_label=True)
    assert [reader.labels(index) for index in range(3)] == [("0",), ("1",), ("0",)]
    assert all(bytes(reader.read(index).content[:4]) == PNG[:4] for index in range(5))  # type: ignore[arg-type]  # images


TEXTS: Mapping[str, bytes] = {
    "a.tfrecord": tfrecord(example({"text": b"one", "label": 0})) + tfrecord(example({"text": b"two", "label": 1})),
    "a.recordio": b"".join(map(recordio, (b"one", b"0", b"two", b"1"))),
    "a.tar": tar([("0", b"one"), ("1", b"two")], ending="txt"),
}


@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize("spec", [{"task": "text-classification"}, {}], ids=["told", "seen"])
def test_texts_by_task_or_by_first_record(tmp_path: Path, key: str, spec: dict[str, str]) -> None:
    reader = open_files(tmp_path / "in", {key: TEXTS[key]}, **spec)
    assert reader.task == "text-classification"
    assert contents(reader) == [("0", ("one",)), ("1", ("two",))]
    compressed = open_files(tmp_path / "packed", {f"{key}.gz": gzip.compress(TEXTS[key])}, **spec)
    assert contents(compressed) == contents(reader)


def test_split_depends_only_on_the_contents(tmp_path: Path) -> None:
    records = labeled_images(30)
    readers = [
        open_files(tmp_path / "rec", {"a.rec": rec(records[:7]), "b.rec": rec(records[7:])}),
        open_files(tmp_path / "tar", {"a.tar": tar(records[::-1])}),
    ]
    validation_contents = [
        {reader.read(index).content for index in stratified_split(reader, 0.3, 5).validation} for reader in readers
    ]
    assert validation_contents[0] == validation_contents[1]
    assert len(validation_contents[0]) == 9


@pytest.mark.parametrize("ending", WRITERS)
def test_truncated_file_raises(tmp_path: Path, ending: str) -> None:
    content = WRITERS[ending](labeled_images(4))
    truncated = content[:-1030] if ending == "tar" else content[:-3]
    with pytest.raises(DataError, match=rf"channel 'train': b\.{ending} ends .*, in record [34] \(from 0\).* at byte "):
        open_files(tmp_path / "in", {f"b.{ending}": truncated})


def test_undecodable_records_are_bad_records(tmp_path: Path) -> None:
    records = labeled_images(4)
    good, bad = tfrecords(records), tfrecord(example({"image/encoded": b"", "colour": 1}))
    with pytest.raises(
        DataError, match=r"a\.tfrecord:0 has no field with a default name.*max_bad_records=0 allows none"
    ):
        open_files(tmp_path / "in", {"a.tfrecord": bad + good})
    assert contents(open_files(tmp_path / "in", {"a.tfrecord": bad + good}, max_bad_records=1)) == records


def test_changed_file_raises(tmp_path: Path) -> None:
    reader = open_files(tmp_path / "in", {"a.rec": rec(labeled_images(4))})
    (tmp_path / "in" / "a.rec").write_bytes(b"short")
    with pytest.raises(
        DataError, match=r"channel 'train': a\.rec:2 has changed since the start of the job: it is empty"
    ):
        reader.read(2)
    (tmp_path / "in" / "a.rec").unlink()
    with pytest.raises(DataError, match=r"a\.rec:2 cannot be read: No such file"):
        reader.read(2)


def test_record_files_among_other_files(tmp_path: Path) -> None:
    files = {"a.tar": tar(labeled_images(3)), "x/a.png": PNG, "y/b.png": PNG}
    with pytest.raises(UserError, match=r"contains record files \(a\.tar\) and others \(x/a\.png and 1 more\)"):
        open_files(tmp_path / "in", files)
    assert len(open_files(tmp_path / "in", files, "application/x-tar")) == 3
    assert len(open_files(tmp_path / "in", files, "application/x-image")) == 2
    with pytest.raises(DataError, match="contains no record files"):
        open_files(tmp_path / "other", {"x/a.png": PNG}, "application/x-tfrecord")


def test_lists_of_class_numbers(tmp_path: Path) -> None:
    files = {"a.recordio": recordio(PNG) + recordio(json.dumps([0, 1]).encode())}
    assert open_files(tmp_path / "flags", files, multi_label=True).labels(0) == ("1",)
    source = ChannelSource("train", write_files(tmp_path / "ids", files), class_ids=True)
    assert open_channel(source, data_spec(multi_label=True)).labels(0) == ("0", "1")


def test_files_without_records_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 1 record files"):
        open_files(tmp_path / "in", {"a.tar": bytes(10240)})
