"""Decodes records of content type `application/x-recordio-protobuf`.

Schema: `sagemaker.amazon.record.proto` of the SageMaker SDK, described in "Common Data Formats for Training".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.formats.protobuf_wire import (
    BYTES,
    DamagedMessage,
    check_count,
    entry,
    field,
    floats,
    integers,
    merged,
    packed,
    parts,
)

_FEATURES, _LABEL = 1 << 3 | BYTES, 2 << 3 | BYTES
_FLOAT32, _FLOAT64, _INT32, _BYTES = (number << 3 | BYTES for number in (2, 3, 7, 9))
_VALUES = 1 << 3 | BYTES
_DTYPES: Mapping[int, np.dtype[Any]] = {_FLOAT32: np.dtype("<f4"), _FLOAT64: np.dtype("<f8")}
_KINDS = frozenset({_FLOAT32, _FLOAT64, _INT32, _BYTES})


# Not frozen: a record has several of these, and constructing frozen ones takes longer than parsing the record.
@dataclass(slots=True)
class Numbers:
    """A dense or sparse tensor.

    Attributes:
        values: `[count]`, in the record's dtype; floats may share the record's memory.
        keys: positions of the values of a sparse tensor, else empty.
        shape: shape of the tensor, if the record specifies it.
    """

    values: NDArray[Any]
    keys: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()


Value = Numbers | tuple[memoryview, ...]


@dataclass(slots=True)
class ProtobufRecord:
    """Features and labels of a record by name."""

    features: dict[str, Value]
    labels: dict[str, Value]


def read_protobuf_record(payload: memoryview) -> ProtobufRecord:
    """Decode a record; its contents may share the payload's memory.

    Raises:
        DamagedMessage: if the payload is not a valid record.
    """
    record = ProtobufRecord({}, {})
    wanted = {_FEATURES: record.features, _LABEL: record.labels}
    at, end, count = 0, len(payload), 0
    while at < end:
        tag, begin, at = field(payload, at, end)
        count += 1
        check_count(count)
        if tag in wanted:
            name, value = entry(payload, begin, at)
            wanted[tag][name] = _value(*value)
    return record


def _value(content: memoryview, begin: int, end: int) -> Value:
    """Decode a oneof value: the last kind wins, and its adjacent messages are merged."""
    kind, found, at, count = 0, (content, begin, begin), begin, 0
    while at < end:
        tag, start, at = field(content, at, end)
        count += 1
        check_count(count)
        if tag in _KINDS:
            found = (content, start, at) if tag != kind else merged(found, (content, start, at))
            kind = tag
    if kind == _BYTES:
        content, begin, end = found
        return tuple(parts(content[begin:end], 1))
    if kind:
        return _numbers(kind, *found)
    if begin < end:
        raise DamagedMessage("has a value of an unknown kind")
    return Numbers(np.empty(0))


def _numbers(kind: int, content: memoryview, begin: int, end: int) -> Numbers:
    if kind != _INT32 and begin < end:
        tag, start, stop = field(content, begin, end)
        if tag == _VALUES and stop == end:
            return Numbers(packed(content[start:stop], _DTYPES[kind]))
    tensor = content[begin:end]
    keys, shape = (tuple(integers(tensor, number, signed=False)) for number in (2, 3))
    if kind == _INT32:
        return Numbers(np.array(integers(tensor, 1, bits=32), np.int32), keys, shape)
    return Numbers(floats(tensor, 1, _DTYPES[kind]), keys, shape)
