"""The platform's protobuf records are parsed as by the protobuf library, in every valid encoding."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.formats.protobuf_records import Numbers, Value, read_protobuf_record
from finetune.data.formats.protobuf_wire import DamagedMessage
from tests.support.platform_records import RECORDS, record_class
from tests.support.stream_writers import inside

Read = list[dict[str, tuple[object, ...]]]
RECORD = record_class()
DTYPES = {"float32_tensor": "<f4", "float64_tensor": "<f8", "int32_tensor": "<i4"}


def plain(value: Value) -> tuple[object, ...]:
    if not isinstance(value, Numbers):
        return "bytes", [bytes(one) for one in value]
    return str(value.values.dtype), list(map(repr, value.values.tolist())), list(value.keys), list(value.shape)


def ours(payload: bytes) -> Read:
    record = read_protobuf_record(memoryview(payload))
    return [{name: plain(value) for name, value in part.items()} for part in (record.features, record.labels)]


def theirs(payload: bytes) -> Read:
    record = RECORD.FromString(payload)
    found: Read = []
    for part in (record.features, record.label):
        found.append({})
        for name, value in part.items():
            kind = value.WhichOneof("value")
            if kind is None:
                found[-1][name] = "float64", [], [], []
            elif kind == "bytes":
                found[-1][name] = "bytes", list(value.bytes.value)
            else:
                tensor = getattr(value, kind)
                values = np.array(tensor.values[:], DTYPES[kind])
                numbers = list(map(repr, values.tolist()))
                found[-1][name] = str(values.dtype), numbers, list(tensor.keys), list(tensor.shape)
    return found


@given(RECORDS)
def test_records_are_read_as_the_library_reads_them(payload: bytes) -> None:
    assert ours(payload) == theirs(payload)


@given(RECORDS, st.data())
def test_records_that_are_cut_are_errors_where_they_are_to_the_library(payload: bytes, data: st.DataObject) -> None:
    begun = payload[: data.draw(st.integers(0, len(payload)))]
    try:
        expected = theirs(begun)
    except DecodeError:
        with pytest.raises(DamagedMessage):
            ours(begun)
    else:
        assert ours(begun) == expected


@given(RECORDS.filter(len), st.data())
def test_what_both_read_of_a_damaged_record_is_the_same(payload: bytes, data: st.DataObject) -> None:
    at, byte = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.binary(min_size=1, max_size=1))
    damaged = payload[:at] + byte + payload[at + 1 :]
    # Each parser may detect faults that the other ignores, in a name or in a value that a later one overrides.
    with suppress(DamagedMessage, DecodeError, UnicodeDecodeError):
        assert ours(damaged) == theirs(damaged)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (inside(1, inside(2, inside(6, b"new"))), "unknown type"),
        (inside(1, inside(2, inside(2, inside(1, bytes(5))))), "ends inside a number"),
        (bytes(2), "field with number 0"),
        (b"\x0b\x0c", "unknown wire type 3"),
    ],
)
def test_what_is_refused(record: bytes, reason: str) -> None:
    with pytest.raises(DamagedMessage, match=reason):
        ours(record)
