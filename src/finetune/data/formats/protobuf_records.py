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
    check_field_count,
    merge_spans,
    read_field,
    read_floats,
    read_integers,
    read_map_entry,
    read_packed,
    read_values,
)

_FEATURES, _LABEL = 1 << 3 | BYTES, 2 << 3 | BYTES
_FLOAT32, _FLOAT64, _INT32, _BYTES = (number << 3 | BYTES for number in (2, 3, 7, 9))
_VALUES = 1 << 3 | BYTES
_DTYPES: Mapping[int, np.dtype[Any]] = {_FLOAT32: np.dtype("<f4"), _FLOAT64: np.dtype("<f8")}
_KINDS = frozenset({_FLOAT32, _FLOAT64, _INT32, _BYTES})


# Not frozen: a record has several of these, and constructing frozen ones takes longer than parsing the record.
@dataclass(slots=True)
class RecordTensor:
    """A dense or sparse tensor.

    Attributes:
        values: `[count]`, in the record's dtype; floats may share the record's memory.
        keys: positions of the values of a sparse tensor, else empty.
        shape: shape of the tensor, if the record specifies it.
    """

    values: NDArray[Any]
    keys: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()


Value = RecordTensor | tuple[memoryview, ...]


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
    maps = {_FEATURES: record.features, _LABEL: record.labels}
    position, end, count = 0, len(payload), 0
    while position < end:
        tag, start, position = read_field(payload, position, end)
        count += 1
        check_field_count(count)
        if tag in maps:
            name, value = read_map_entry(payload, start, position)
            maps[tag][name] = _read_value(*value)
    return record


def _read_value(content: memoryview, start: int, end: int) -> Value:
    """Decode a oneof value: the last kind wins, and its adjacent messages are merged."""
    kind, span, position, count = 0, (content, start, start), start, 0
    while position < end:
        tag, tensor_start, position = read_field(content, position, end)
        count += 1
        check_field_count(count)
        if tag in _KINDS:
            tensor = content, tensor_start, position
            span = tensor if tag != kind else merge_spans(span, tensor)
            kind = tag
    if kind == _BYTES:
        content, start, end = span
        return tuple(read_values(content[start:end], 1))
    if kind:
        return _read_numbers(kind, *span)
    if start < end:
        raise DamagedMessage("has a value of unknown type; expected a float32, float64 or int32 tensor, or bytes")
    return RecordTensor(np.empty(0))


def _read_numbers(kind: int, content: memoryview, start: int, end: int) -> RecordTensor:
    if kind != _INT32 and start < end:
        tag, values_start, values_end = read_field(content, start, end)
        if tag == _VALUES and values_end == end:
            return RecordTensor(read_packed(content[values_start:values_end], _DTYPES[kind]))
    tensor = content[start:end]
    keys, shape = (tuple(read_integers(tensor, number, signed=False)) for number in (2, 3))
    if kind == _INT32:
        return RecordTensor(np.array(read_integers(tensor, 1, bits=32), np.int32), keys, shape)
    return RecordTensor(read_floats(tensor, 1, _DTYPES[kind]), keys, shape)
