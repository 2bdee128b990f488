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
from finetune.data.tables.delimited import Dialect, UnclosedQuote, cells_of, cut_rows
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
    monkeypatch.setattr(json_text, "MOST_VALUES", 1000)
    monkeypatch.setattr(wire, "MAX_FIELDS", 1000)
    monkeypatch.setattr(wire, "MAX_NUMBERS", 1000)


def endless(*first: bytes, then: bytes) -> Iterator[bytes]:
    """An endless stream; reading it to the end fails the test."""
    yield from first
    for _ in range(100 * LIMIT // max(1, len(then))):
        yield then
    pytest.fail("the stream was read on and on")


def damage(records: Iterable[object]) -> DamagedStream:
    with pytest.raises(DamagedStream) as caught:
        for _ in records:
            pass
    return caught.value


@pytest.mark.parametrize("part", [b"x" * 4096, b"abc", b""])
def test_recordio_with_endless_middle_parts(part: bytes) -> None:
    good = record(b"good")
    stream = endless(good, record(part, 1), then=record(part, 2) * 100)
    found = damage(read_recordio(Window(stream)))
    assert "RecordIO record of more than" in str(found)
    assert found.offset == len(good)


@pytest.mark.parametrize("flag", [0, 1])
def test_recordio_that_claims_a_long_record(flag: int) -> None:
    head = MAGIC + struct.pack("<I", flag << 29 | 2 * LIMIT)
    assert "RecordIO record of 200,000 bytes; the maximum is 100,000" in str(
        damage(read_recordio(Window(endless(head, then=b"x" * 4096))))
    )


def test_recordio_of_long_attributes() -> None:
    codec = AttributeCodec(DecodeOptions("text-classification", data_spec(attribute_names=tuple("abcdefghij"))))
    stream = endless(then=record(b"x" * 20_000))
    assert "attributes of more than" in str(damage(codec.split_records(Window(stream))))


def test_a_tfrecord_that_claims_a_long_record() -> None:
    head = tf_record(b"x" * (LIMIT + 1))[:12]
    assert f"TFRecord of {LIMIT + 1:,} bytes; the maximum is {LIMIT:,}" in str(
        damage(read_tfrecords(Window(endless(head, then=b"x"))))
    )


def test_a_tar_member_that_claims_a_long_file() -> None:
    info = tarfile.TarInfo("a.png")
    info.size = LIMIT + 1
    found = damage(read_tar(Window(endless(info.tobuf(), then=b"x" * 512))))
    assert f"tar member of {LIMIT + 1:,} bytes; the maximum is {LIMIT:,}" in str(found)


def test_a_line_without_end() -> None:
    assert "has a line longer than" in str(damage(read_lines(Window(endless(b"a\n", then=b"x" * 4096)))))


@pytest.mark.parametrize("line", [b"x" * 4096, b"x", b""])
def test_a_quoted_field_without_end(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.tables.delimited.LONGEST_ROW", LIMIT)
    lines = endless(b"a,b", b'c,"', then=line)
    with pytest.raises(UnclosedQuote) as caught:
        for _ in cut_rows(lines, Dialect(",")):
            pass
    assert caught.value.line == 2


@pytest.mark.parametrize("text", [b"\0" * 2**24, b"x" * 2**24])
def test_a_gzip_bomb_is_a_line_that_is_too_long(text: bytes) -> None:
    assert "has a line longer than" in str(damage(read_lines(Window(decompress_gzip([gzip.compress(text)])))))


def test_json_of_more_values_than_a_record_has_is_no_record() -> None:
    for text in ("[" + "1," * 2000 + "1]", "[" * 2000, "{" * 2000, '[{"a":[]},' * 2000):
        with pytest.raises(ValueError, match="it has more than 1,000 values"):
            parse_json(text)
        with pytest.raises(ValueError, match="it has more than 1,000 values"):
            parse_json(text.encode())
    assert parse_json('"' + "a" * 5000 + '"') == "a" * 5000


@pytest.mark.parametrize("text", ["[" * 900, '{"a":' * 990 + "1" + "}" * 990, "[" * 100_000])
def test_json_that_is_nested_too_deeply_is_no_record(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MOST_VALUES", 10**6)
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("metadata", [False, True])
def test_a_recordio_attribute_that_is_nested_too_deeply_is_a_bad_record(
    metadata: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "MOST_VALUES", 10**6)
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
def test_an_object_of_endless_lines(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.tables.json_objects.LONGEST_OBJECT", LIMIT)
    with pytest.raises(DataError, match="object that begins on line 2 is longer than"):
        list(json_objects(endless(b"[", b'{"a": [', then=line)))


def test_objects_of_one_line_are_cut_one_by_one_in_one_pass() -> None:
    count = 200_000
    assert sum(1 for _ in json_objects([b"{}" * count])) == count


def test_messages_of_more_fields_than_a_record_has_are_damaged() -> None:
    many = inside(1, inside(1, b"a") + inside(2, inside(2, b"")) * 2000)
    for message in (many, inside(1, b"") * 2000, inside(1, inside(2, inside(2, b"\0" * 4) * 2000))):
        with pytest.raises(DamagedMessage, match="has more than 1,000 fields"):
            read_protobuf_record(memoryview(message))
    with pytest.raises(DamagedMessage, match="has more than 1,000 numbers"):
        read_integers(memoryview(inside(1, varint(5) * 2000)), 1)


def test_a_row_of_more_columns_than_a_table_has_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.tables.delimited.MOST_COLUMNS", 1000)
    for dialect in (Dialect("\t", "plain"), Dialect(",")):
        with pytest.raises(ValueError, match="has more than 1,000 columns"):
            cells_of(f"x{dialect.delimiter}" * 5000, dialect)
    assert cells_of('a,"' + "," * 5000 + '"', Dialect(",")) == ["a", "," * 5000]


def test_json_lines_with_too_many_values_are_bad_records() -> None:
    codec = JsonLinesCodec(DecodeOptions("text-classification", data_spec()), "channel 'train'", pytest.fail)
    good = b'{"label": "a", "text": "b"}'
    samples = list(codec.split_records(Window([good, b"\n", b"[" + b"1," * 5000 + b"1]\n", good])))
    assert [codec.decode(samples[at]).labels for at in (0, 2)] == [("a",), ("a",)]
    with pytest.raises(ValueError, match="it has more than 1,000 values"):
        codec.decode(samples[1])


def test_streams_of_the_tests_end() -> None:
    assert list(itertools.islice(endless(b"a", then=b"b"), 2)) == [b"a", b"b"]
