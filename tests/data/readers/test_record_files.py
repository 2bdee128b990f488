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


def pictures(count: int) -> list[tuple[str, bytes]]:
    """Class numbers and pseudo images, some of which contain the magic word."""
    return [(str(number % 3), PNG + MAGIC * (number % 2) + bytes([number]) * number) for number in range(count)]


def rec(records: Sequence[tuple[str, bytes]]) -> bytes:
    heads = [struct.pack("<IfQQ", 0, float(label), 0, 0) for label, _ in records]
    return b"".join(escaped_recordio(head + content) for head, (_, content) in zip(heads, records, strict=True))


def attributes(records: Sequence[tuple[str, bytes]]) -> bytes:
    return b"".join(recordio(content) + recordio(label.encode()) for label, content in records)


def tfrecords(records: Sequence[tuple[str, bytes]]) -> bytes:
    return b"".join(
        tfrecord(example({"image/encoded": content, "image/class/label": int(label)})) for label, content in records
    )


def tar(records: Sequence[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, ending: str = "png") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for number, (label, content) in enumerate(records):
            for name, what in (
                (f"{'deep/' * 30}{number}.{ending}", content),
                (f"{'deep/' * 30}{number}.cls", label.encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what))
    return target.getvalue()


WRITERS: Mapping[str, Callable[[Sequence[tuple[str, bytes]]], bytes]] = {
    "rec": rec,
    "tfrecord": tfrecords,
    "tar": tar,
    "recordio": attributes,
}


def opened(root: Path, files: dict[str, bytes], content_type: str | None = None, **spec: object) -> Reader:
    source = ChannelSource("train", write_files(root, files), None, content_type, scratch=root.parent)
    return open_channel(source, data_spec(**spec))


def contents(reader: Reader) -> list[tuple[str, object]]:
    """All contents, read in another order than that of the file."""
    found = {at: reader.read(at) for at in reversed(range(len(reader)))}
    assert [found[at].labels for at in range(len(reader))] == [reader.labels(at) for at in range(len(reader))]
    return [(found[at].labels[0], found[at].content) for at in range(len(reader))]


@pytest.mark.parametrize("ending", WRITERS)
def test_every_record_of_several_files(tmp_path: Path, ending: str) -> None:
    write, given = WRITERS[ending], pictures(11)
    parts = {f"a.{ending}": given[:4], f"b.{ending}": [], f"c/d.{ending}": given[4:]}
    reader = opened(tmp_path / "in", {key: write(part) if part else b"" for key, part in parts.items()})
    assert (reader.task, reader.channel) == ("image-classification", "train")
    assert [reader.key(at) for at in (0, 3, 4)] == [f"a.{ending}:0", f"a.{ending}:3", f"c/d.{ending}:0"]
    assert contents(reader) == given


@pytest.mark.parametrize("ending", WRITERS)
def test_compressed_files(tmp_path: Path, ending: str) -> None:
    given, write = pictures(6), WRITERS[ending]
    members = gzip.compress(write(given[:3])) + gzip.compress(write(given[3:]))
    assert contents(opened(tmp_path / "in", {f"a.{ending}.gz": members})) == given


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_glued_together_and_files_of_desktops(tmp_path: Path, form: int) -> None:
    given = pictures(6)
    assert contents(opened(tmp_path / "in", {"a.tar": tar(given[:2], form) + tar(given[2:], form)})) == given


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("train.tfrecord-00000-of-00010", None),
        ("train-00000-of-00010", "application/x-tfrecord"),
        ("TRAIN.TFRECORDS", None),
    ],
)
def test_the_names_that_writers_give(tmp_path: Path, name: str, content_type: str | None) -> None:
    files = {name: tfrecords(pictures(3)), "_SUCCESS": b"", "train.idx": b"0"}
    assert contents(opened(tmp_path / "in", files, content_type)) == pictures(3)


def test_what_other_software_wrote(tmp_path: Path) -> None:
    files = {"a.rec": (FIXTURES / "mxnet_images.rec").read_bytes()}
    reader = opened(tmp_path / "in", files, multi_label=True)
    assert [reader.labels(at) for at in range(3)] == [("0",), ("1",), ("0",)]
    assert all(bytes(reader.read(at).content[:4]) == PNG[:4] for at in range(5))  # type: ignore[arg-type]  # images


TEXTS: Mapping[str, bytes] = {
    "a.tfrecord": tfrecord(example({"text": b"one", "label": 0})) + tfrecord(example({"text": b"two", "label": 1})),
    "a.recordio": b"".join(map(recordio, (b"one", b"0", b"two", b"1"))),
    "a.tar": tar([("0", b"one"), ("1", b"two")], ending="txt"),
}


@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize("spec", [{"task": "text-classification"}, {}], ids=["told", "seen"])
def test_texts_where_the_task_or_the_first_record_says_so(tmp_path: Path, key: str, spec: dict[str, str]) -> None:
    reader = opened(tmp_path / "in", {key: TEXTS[key]}, **spec)
    assert reader.task == "text-classification"
    assert contents(reader) == [("0", ("one",)), ("1", ("two",))]
    packed = opened(tmp_path / "packed", {f"{key}.gz": gzip.compress(TEXTS[key])}, **spec)
    assert contents(packed) == contents(reader)


def test_a_split_depends_on_the_contents_alone(tmp_path: Path) -> None:
    given = pictures(30)
    ways = [
        opened(tmp_path / "rec", {"a.rec": rec(given[:7]), "b.rec": rec(given[7:])}),
        opened(tmp_path / "tar", {"a.tar": tar(given[::-1])}),
    ]
    held = [{reader.read(at).content for at in stratified_split(reader, 0.3, 5).validation} for reader in ways]
    assert held[0] == held[1]
    assert len(held[0]) == 9


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_that_is_cut_off(tmp_path: Path, ending: str) -> None:
    content = WRITERS[ending](pictures(4))
    cut = content[:-1030] if ending == "tar" else content[:-3]
    with pytest.raises(DataError, match=rf"channel 'train': b\.{ending} ends .*, in record [34] \(from 0\).* at byte "):
        opened(tmp_path / "in", {f"b.{ending}": cut})


def test_records_that_cannot_be_understood_are_counted(tmp_path: Path) -> None:
    given = pictures(4)
    good, bad = tfrecords(given), tfrecord(example({"image/encoded": b"", "colour": 1}))
    with pytest.raises(
        DataError, match=r"a\.tfrecord:0 has no field with a default name.*max_bad_records=0 allows none"
    ):
        opened(tmp_path / "in", {"a.tfrecord": bad + good})
    assert contents(opened(tmp_path / "in", {"a.tfrecord": bad + good}, max_bad_records=1)) == given


def test_files_that_changed_meanwhile(tmp_path: Path) -> None:
    reader = opened(tmp_path / "in", {"a.rec": rec(pictures(4))})
    (tmp_path / "in" / "a.rec").write_bytes(b"short")
    with pytest.raises(
        DataError, match=r"channel 'train': a\.rec:2 has changed since the start of the job: it is empty"
    ):
        reader.read(2)
    (tmp_path / "in" / "a.rec").unlink()
    with pytest.raises(DataError, match=r"a\.rec:2 cannot be read: No such file"):
        reader.read(2)


def test_records_among_other_things(tmp_path: Path) -> None:
    files = {"a.tar": tar(pictures(3)), "x/a.png": PNG, "y/b.png": PNG}
    with pytest.raises(UserError, match=r"contains record files \(a\.tar\) and others \(x/a\.png and 1 more\)"):
        opened(tmp_path / "in", files)
    assert len(opened(tmp_path / "in", files, "application/x-tar")) == 3
    assert len(opened(tmp_path / "in", files, "application/x-image")) == 2
    with pytest.raises(DataError, match="contains no record files"):
        opened(tmp_path / "other", {"x/a.png": PNG}, "application/x-tfrecord")


def test_lists_of_class_numbers(tmp_path: Path) -> None:
    files = {"a.recordio": recordio(PNG) + recordio(json.dumps([0, 1]).encode())}
    assert opened(tmp_path / "flags", files, multi_label=True).labels(0) == ("1",)
    source = ChannelSource("train", write_files(tmp_path / "ids", files), class_ids=True)
    assert open_channel(source, data_spec(multi_label=True)).labels(0) == ("0", "1")


def test_no_records_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 1 record files"):
        opened(tmp_path / "in", {"a.tar": bytes(10240)})
