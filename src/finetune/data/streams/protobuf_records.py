"""What does a record of `application/x-recordio-protobuf` hold?

Schema: `sagemaker.amazon.record.proto` of the platform's SDK, described in "Common Data Formats for Training".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data.streams.wire import BYTES, DamagedMessage, entry, fields, integers, joined, parts

_FEATURES, _LABEL = 1, 2
_FLOAT32, _FLOAT64, _INT32, _BYTES = 2, 3, 7, 9


@dataclass(frozen=True, slots=True)
class Numbers:
    """A dense or sparse tensor.

    Attributes:
        values: `[count]`.
        keys: where the values stand, for a sparse tensor; else empty.
        shape: of the tensor, where the record says it.
    """

    values: NDArray[np.float64]
    keys: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()


Value = Numbers | tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ProtobufRecord:
    """Named features and named labels."""

    features: Mapping[str, Value]
    labels: Mapping[str, Value]


def read_protobuf_record(payload: memoryview) -> ProtobufRecord:
    """Decode a record.

    Raises:
        DamagedMessage: it is none.
    """
    features: dict[str, Value] = {}
    labels: dict[str, Value] = {}
    for number, kind, value in fields(payload):
        if number in (_FEATURES, _LABEL) and kind == BYTES and isinstance(value, memoryview):
            name, content = entry(value)
            (features if number == _FEATURES else labels)[name] = _value(content)
    return ProtobufRecord(features, labels)


def _value(value: memoryview) -> Value:
    for number, kind, content in fields(value):
        if kind != BYTES or not isinstance(content, memoryview):
            continue
        if number in (_FLOAT32, _FLOAT64, _INT32):
            return _numbers(content, number)
        if number == _BYTES:
            return tuple(bytes(one) for one in parts(content, 1))
    if len(value):
        raise DamagedMessage("has a value of an unknown kind")
    return Numbers(np.empty(0))


def _numbers(tensor: memoryview, kind: int) -> Numbers:
    found = list(fields(tensor))
    if kind == _INT32:
        values = np.array(integers(tensor, 1), np.float64)
    else:
        values = joined([value for number, _, value in found if number == 1], "<f4" if kind == _FLOAT32 else "<f8")
    if all(number == 1 for number, _, _ in found):
        return Numbers(values)
    keys, shape = (tuple(integers(tensor, number, signed=False)) for number in (2, 3))
    return Numbers(values, keys, shape)
