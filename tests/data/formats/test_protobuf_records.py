"""The platform's protobuf records are parsed as by the protobuf library, in every valid encoding."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.formats.protobuf_records import RecordTensor, Value, read_protobuf_record
from finetune.data.formats.protobuf_wire import DamagedMessage
from tests.support.platform_records import RECORDS, record_class
from tests.support.stream_writers import inside

Fields = list[dict[str, tuple[object, ...]]]
RECORD = record_class()
DTYPES = {"float32_tensor": "<f4", "float64_tensor": "<f8", "int32_tensor": "<i4"}


def as_plain(value: Value) -> tuple[object, ...]:
    if not isinstance(value, RecordTensor):
        return "bytes", [bytes(content) for content in value]
    return str(value.values.dtype), list(map(repr, value.values.tolist())), list(value.keys), list(value.shape)


def decode(payload: bytes) -> Fields:
    record = read_protobuf_record(memoryview(payload))
    return [{name: as_plain(value) for name, value in section.items()} for section in (record.features, record.labels)]


def decode_with_library(payload: bytes) -> Fields:
    record = RECORD.FromString(payload)
    fields: Fields = []
    for section in (record.features, record.label):
        fields.append({})
        for name, value in section.items():
            kind = value.WhichOneof("value")
            if kind is None:
                fields[-1][name] = "float64", [], [], []
            elif kind == "bytes":
                fields[-1][name] = "bytes", list(value.bytes.value)
            else:
                tensor = getattr(value, kind)
                values = np.array(tensor.values[:], DTYPES[kind])
                numbers = list(map(repr, values.tolist()))
                fields[-1][name] = str(values.dtype), numbers, list(tensor.keys), list(tensor.shape)
    return fields


@given(RECORDS)
def test_records_equal_those_of_the_protobuf_library(payload: bytes) -> None:
    assert decode(payload) == decode_with_library(payload)


@given(RECORDS, st.data())
def test_truncated_records_raise_if_the_protobuf_library_raises(payload: bytes, data: st.DataObject) -> None:
    truncated = payload[: data.draw(st.integers(0, len(payload)))]
    try:
        expected = decode_with_library(truncated)
    except DecodeError:
        with pytest.raises(DamagedMessage):
            decode(truncated)
    else:
        assert decode(truncated) == expected


@given(RECORDS.filter(len), st.data())
def test_damaged_records_equal_those_of_the_protobuf_library(payload: bytes, data: st.DataObject) -> None:
    position, byte = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.binary(min_size=1, max_size=1))
    damaged = payload[:position] + byte + payload[position + 1 :]
    # Each parser may detect faults that the other ignores, in a name or in a value that a later one overrides.
    with suppress(DamagedMessage, DecodeError, UnicodeDecodeError):
        assert decode(damaged) == decode_with_library(damaged)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (inside(1, inside(2, inside(6, b"new"))), "unknown type"),
        (inside(1, inside(2, inside(2, inside(1, bytes(5))))), "ends inside a number"),
        (bytes(2), "field with number 0"),
        (b"\x0b\x0c", "unknown wire type 3"),
    ],
)
def test_malformed_records_raise(record: bytes, reason: str) -> None:
    with pytest.raises(DamagedMessage, match=reason):
        decode(record)
