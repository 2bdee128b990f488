"""Every cell of the documentation's table of formats and input modes is true."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from finetune.config.content_types import stream_format_of
from finetune.data.formats.codec import StreamLayout, choose_codec
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.framing.gzip_members import decompress_gzip
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.errors import JobError
from tests.support.labelled_data import data_spec, write_files
from tests.support.stream_writers import example, protobuf_record, recordio, tfrecord

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Sample:
    """Two records of classes 0 and 1, as files and as sent through a pipe.

    Attributes:
        files: by name; all except lists may be compressed.
        stream: the bytes that the platform sends for them.
        content_type: of the channel in Pipe mode.
        listed: files of the channel with lists.
    """

    files: Mapping[str, bytes]
    stream: bytes
    content_type: str
    listed: Mapping[str, bytes] | None = None


def one_file(name: str, content: bytes, content_type: str) -> Sample:
    return Sample({name: content}, content, content_type)


def tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for label in (0, 1):
            for name, content in ((f"{label}.png", PNG), (f"{label}.cls", str(label).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def manifest() -> Sample:
    lines = "".join(json.dumps({"source-ref": f"{n}.png", "class": n}) + "\n" for n in (0, 1)).encode()
    stream = b"".join(recordio(PNG) + recordio(str(n).encode()) for n in (0, 1))
    return Sample({"a.manifest": lines, "0.png": PNG, "1.png": PNG}, stream, "application/x-recordio")


def parquet() -> bytes:
    target = io.BytesIO()
    pd.DataFrame({"label": [0, 1], "text": ["x", "y"]}).to_parquet(target)
    return target.getvalue()


SAMPLES: Mapping[str, Callable[[], Sample]] = {
    "images in a folder per class": lambda: Sample({"0/a.png": PNG, "1/b.png": PNG}, PNG * 2, "application/x-image"),
    "images listed in `.lst` files": lambda: Sample(
        {"a.png": PNG, "b.png": PNG}, PNG * 2, "application/x-image", {"x.lst": b"0\t0\ta.png\n1\t1\tb.png\n"}
    ),
    "augmented manifest": manifest,
    "RecordIO, image records": lambda: one_file(
        "a.rec",
        b"".join(recordio(struct.pack("<IfQQ", 0, n, 0, 0) + PNG) for n in (0, 1)),
        "application/x-recordio",
    ),
    "RecordIO, protocol buffers": lambda: one_file(
        "a.pbr",
        b"".join(recordio(protobuf_record({"values": PNG}, {"values": str(n).encode()})) for n in (0, 1)),
        "application/x-recordio-protobuf",
    ),
    "TFRecord": lambda: one_file(
        "a.tfrecord",
        b"".join(tfrecord(example({"image/encoded": PNG, "image/class/label": n})) for n in (0, 1)),
        "application/x-tfrecord",
    ),
    "tar shards": lambda: one_file("a.tar", tar(), "application/x-tar"),
    "JSON Lines": lambda: one_file(
        "a.jsonl", b'{"label": 0, "text": "x"}\n{"label": 1, "text": "y"}\n', "application/jsonlines"
    ),
    "CSV, TSV": lambda: one_file("a.csv", b"label,text\n0,x\n1,y\n", "text/csv"),
    "Parquet, Arrow": lambda: one_file("a.parquet", parquet(), "application/x-parquet"),
}


def readme_table() -> dict[str, tuple[str, ...]]:
    """File, Pipe and gzip support of each format, as stated in docs/data.md."""
    lines = (ROOT / "docs" / "data.md").read_text("utf-8").partition("| format | File, FastFile | Pipe | gzip |\n")[2]
    rows = lines.partition("\n\n")[0].splitlines()[1:]
    return {
        cells[0]: tuple(cells[1:]) for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    }


def from_files(folder: Path, sample: Sample, *, compressed: bool = False) -> bool:
    """Whether the records are read from files with their classes."""
    files = (
        {f"{key}.gz": gzip.compress(content) for key, content in sample.files.items()} if compressed else sample.files
    )
    lists = None if sample.listed is None else write_files(folder / "lists", dict(sample.listed))
    source = ChannelSource("train", write_files(folder / "files", dict(files)), lists, scratch=folder)
    try:
        reader = open_channel(source, data_spec())
    except JobError:
        return False
    records = [reader.read(index) for index in range(len(reader))]
    return [record.labels for record in records] == [("0",), ("1",)] and all(record.content for record in records)


def from_pipe(sample: Sample, *, compressed: bool = False) -> bool:
    """Whether the records are read from a stream with their classes."""
    content = gzip.compress(sample.stream) if compressed else sample.stream
    stream_format = stream_format_of(sample.content_type)
    texts = stream_format in ("jsonl", "csv")
    options = DecodeOptions("text-classification" if texts else "image-classification", data_spec())
    window = Window(decompress_gzip([content]))
    try:
        codec = choose_codec(StreamLayout("train", stream_format), options, window)
    except DamagedStream:
        return False
    return [codec.decode(record).labels for record in codec.split_records(window)] == [("0",), ("1",)]


def test_readme_table_lists_every_format() -> None:
    assert readme_table().keys() == SAMPLES.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_table_of_formats_is_correct(tmp_path: Path, name: str) -> None:
    sample = SAMPLES[name]()
    files, pipe, compressed = readme_table()[name]
    assert (files == "yes") == from_files(tmp_path / "plain", sample)
    assert (pipe == "yes") == from_pipe(sample)
    support = [from_files(tmp_path / "compressed", sample, compressed=True)]
    support += [from_pipe(sample, compressed=True)] if pipe == "yes" and name != "augmented manifest" else []
    assert {compressed == "yes"} == set(support)
