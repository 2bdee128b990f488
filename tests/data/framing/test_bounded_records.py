"""Records of a stream have bounded memory: each format rejects records that are too long or have too many parts."""

from __future__ import annotations

import gzip
import itertools
import struct
import tarfile
from collections.abc import Iterable, Iterator

import pytest

from finetune.data import json_text
from finetune.data.formats import protobuf_wire as wire
from finetune.data.formats import record_codecs
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.formats.protobuf_records import read_protobuf_record
from finetune.data.formats.protobuf_wire import DamagedMessage, read_integers
from finetune.data.formats.record_codecs import AttributeCodec
from finetune.data.formats.text_codecs import JsonLinesCodec
from finetune.data.framing import lines, recordio, tar_members, tfrecord
from finetune.data.framing.gzip_members import decompress_gzip
from finetune.data.framing.lines import read_lines
from finetune.data.framing.recordio import read_recordio
from finetune.data.framing.tar_members import read_tar
from finetune.data.framing.tfrecord import read_tfrecords
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.json_text import parse_json
from finetune.data.tables.delimited import Dialect, UnclosedQuote, split_cells, split_rows
from finetune.data.tables.json_objects import json_objects
from finetune.errors import DataError
from tests.support.labelled_data import data_spec
from tests.support.stream_writers import MAGIC, inside, varint
from tests.support.stream_writers import recordio as record
from tests.support.stream_writers import tfrecord as tf_record

LIMIT = 100_000


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (recordio, record_codecs, tfrecord, tar_members):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", LIMIT)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", LIMIT)
    monkeypatch.setattr(json_text, "MAX_VALUES", 1000)
    monkeypatch.setattr(wire, "MAX_FIELDS", 1000)
    monkeypatch.setattr(wire, "MAX_NUMBERS", 1000)


def endless(*prefix: bytes, chunk: bytes) -> Iterator[bytes]:
    """An endless stream; reading it to the end fails the test."""
    yield from prefix
    for _ in range(100 * LIMIT // max(1, len(chunk))):
        yield chunk
    pytest.fail("the stream was read on and on")


def damage(records: Iterable[object]) -> DamagedStream:
    with pytest.raises(DamagedStream) as raised:
        for _ in records:
            pass
    return raised.value


@pytest.mark.parametrize("part", [b"x" * 4096, b"abc", b""])
def test_recordio_with_endless_middle_parts_raises(part: bytes) -> None:
    good_record = record(b"good")
    stream = endless(good_record, record(part, 1), chunk=record(part, 2) * 100)
    error = damage(read_recordio(Window(stream)))
    assert "RecordIO record of more than" in str(error)
    assert error.offset == len(good_record)


@pytest.mark.parametrize("flag", [0, 1])
def test_recordio_with_too_large_length_raises(flag: int) -> None:
    header = MAGIC + struct.pack("<I", flag << 29 | 2 * LIMIT)
    assert "RecordIO record of 200,000 bytes; the maximum is 100,000" in str(
        damage(read_recordio(Window(endless(header, chunk=b"x" * 4096))))
    )


def test_recordio_with_too_large_attributes_raises() -> None:
    codec = AttributeCodec(DecodeOptions("text-classification", data_spec(attribute_names=tuple("abcdefghij"))))
    stream = endless(chunk=record(b"x" * 20_000))
    assert "attributes of more than" in str(damage(codec.split_records(Window(stream))))


def test_tfrecord_with_too_large_length_raises() -> None:
    header = tf_record(b"x" * (LIMIT + 1))[:12]
    assert f"TFRecord of {LIMIT + 1:,} bytes; the maximum is {LIMIT:,}" in str(
        damage(read_tfrecords(Window(endless(header, chunk=b"x"))))
    )


def test_tar_member_with_too_large_size_raises() -> None:
    info = tarfile.TarInfo("a.png")
    info.size = LIMIT + 1
    error = damage(read_tar(Window(endless(info.tobuf(), chunk=b"x" * 512))))
    assert f"tar member of {LIMIT + 1:,} bytes; the maximum is {LIMIT:,}" in str(error)


def test_endless_line_raises() -> None:
    assert "has a line longer than" in str(damage(read_lines(Window(endless(b"a\n", chunk=b"x" * 4096)))))


@pytest.mark.parametrize("line", [b"x" * 4096, b"x", b""])
def test_endless_quoted_field_raises(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.tables.delimited.MAX_ROW_BYTES", LIMIT)
    lines = endless(b"a,b", b'c,"', chunk=line)
    with pytest.raises(UnclosedQuote) as raised:
        for _ in split_rows(lines, Dialect(",")):
            pass
    assert raised.value.line == 2


@pytest.mark.parametrize("text", [b"\0" * 2**24, b"x" * 2**24])
def test_gzip_bomb_raises(text: bytes) -> None:
    assert "has a line longer than" in str(damage(read_lines(Window(decompress_gzip([gzip.compress(text)])))))


def test_json_with_too_many_values_raises() -> None:
    for text in ("[" + "1," * 2000 + "1]", "[" * 2000, "{" * 2000, '[{"a":[]},' * 2000):
        with pytest.raises(ValueError, match="it has more than 1,000 values"):
            parse_json(text)
        with pytest.raises(ValueError, match="it has more than 1,000 values"):
            parse_json(text.encode())
    assert parse_json('"' + "a" * 5000 + '"') == "a" * 5000


@pytest.mark.parametrize("text", ["[" * 900, '{"a":' * 90_000 + "1" + "}" * 90_000, "[" * 100_000])
def test_deeply_nested_json_raises(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_VALUES", 10**6)
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("metadata", [False, True])
def test_deeply_nested_recordio_attribute_is_a_bad_record(metadata: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_VALUES", 10**6)
    names = ("source-ref", "class", "class-metadata") if metadata else ("source-ref", "class")
    codec = AttributeCodec(DecodeOptions("image-classification", data_spec(attribute_names=names)))
    nested = memoryview(b"[" * 100_000)
    sample = (memoryview(b"picture"), memoryview(b"1"), nested) if metadata else (memoryview(b"picture"), nested)
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.decode(sample)
    with pytest.raises(ValueError, match="nested too deeply"):
        texts = AttributeCodec(DecodeOptions("text-classification", data_spec(attribute_names=("source", "class"))))
        texts.decode((memoryview(b"a text"), nested))


@pytest.mark.parametrize("line", [b"x" * 4096, b"1,", b""])
def test_endless_json_object_raises(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.tables.json_objects.MAX_OBJECT_BYTES", LIMIT)
    with pytest.raises(DataError, match="object that begins on line 2 is longer than"):
        list(json_objects(endless(b"[", b'{"a": [', chunk=line)))


def test_concatenated_objects_are_split_in_linear_time() -> None:
    count = 200_000
    assert sum(1 for _ in json_objects([b"{}" * count])) == count


def test_messages_with_too_many_fields_raise() -> None:
    features = inside(1, inside(1, b"a") + inside(2, inside(2, b"")) * 2000)
    for message in (features, inside(1, b"") * 2000, inside(1, inside(2, inside(2, b"\0" * 4) * 2000))):
        with pytest.raises(DamagedMessage, match="has more than 1,000 fields"):
            read_protobuf_record(memoryview(message))
    with pytest.raises(DamagedMessage, match="has more than 1,000 numbers"):
        read_integers(memoryview(inside(1, varint(5) * 2000)), 1)


def test_rows_with_too_many_columns_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.tables.delimited.MAX_COLUMNS", 1000)
    for dialect in (Dialect("\t", "plain"), Dialect(",")):
        with pytest.raises(ValueError, match="has more than 1,000 columns"):
            split_cells(f"x{dialect.delimiter}" * 5000, dialect)
    assert split_cells('a,"' + "," * 5000 + '"', Dialect(",")) == ["a", "," * 5000]


def test_json_lines_with_too_many_values_are_bad_records() -> None:
    codec = JsonLinesCodec(DecodeOptions("text-classification", data_spec()), "channel 'train'", pytest.fail)
    good_record = b'{"label": "a", "text": "b"}'
    samples = list(codec.split_records(Window([good_record, b"\n", b"[" + b"1," * 5000 + b"1]\n", good_record])))
    assert [codec.decode(samples[index]).labels for index in (0, 2)] == [("a",), ("a",)]
    with pytest.raises(ValueError, match="it has more than 1,000 values"):
        codec.decode(samples[1])


def test_endless_streams_can_be_sliced() -> None:
    assert list(itertools.islice(endless(b"a", chunk=b"b"), 2)) == [b"a", b"b"]
