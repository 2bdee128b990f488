"""What does a record of `application/x-recordio-protobuf` hold?

Schema: `sagemaker.amazon.record.proto` of the platform's SDK, described in "Common Data Formats for Training".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data.streams.wire import DamagedMessage, entries, floats, integers, parts

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
    return ProtobufRecord(
        {name: _value(value) for name, value in entries(payload, _FEATURES)},
        {name: _value(value) for name, value in entries(payload, _LABEL)},
    )


def _value(value: memoryview) -> Value:
    for number, dtype in ((_FLOAT32, "<f4"), (_FLOAT64, "<f8")):
        for tensor in parts(value, number):
            return _numbers(tensor, floats(tensor, 1, dtype))
    for tensor in parts(value, _INT32):
        return _numbers(tensor, np.array(integers(tensor, 1), np.float64))
    for content in parts(value, _BYTES):
        return tuple(bytes(one) for one in parts(content, 1))
    if len(value):
        raise DamagedMessage("has a value of an unknown kind")
    return Numbers(np.empty(0))


def _numbers(tensor: memoryview, values: NDArray[np.float64]) -> Numbers:
    keys = tuple(integers(tensor, 2, signed=False))
    return Numbers(values, keys, tuple(integers(tensor, 3, signed=False)))
