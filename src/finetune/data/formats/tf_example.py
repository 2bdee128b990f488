"""Decodes `tf.train.Example` messages.

Schema: tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.data.formats.protobuf_wire import read_floats, read_integers, read_map, read_values

_FEATURES = 1
_FEATURE = 1
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3

Feature = tuple[bytes, ...] | tuple[float, ...] | tuple[int, ...]


def read_example(payload: memoryview) -> Mapping[str, Feature]:
    """Return the features by name.

    Raises:
        DamagedMessage: if the payload is not a valid `Example`.
    """
    return {
        name: _read_feature(value)
        for features in read_values(payload, _FEATURES)
        for name, value in read_map(features, _FEATURE)
    }


def _read_feature(value: memoryview) -> Feature:
    for texts in read_values(value, _BYTES_LIST):
        return tuple(bytes(content) for content in read_values(texts, 1))
    for numbers in read_values(value, _FLOAT_LIST):
        return tuple(read_floats(numbers, 1).tolist())
    for numbers in read_values(value, _INT64_LIST):
        return tuple(read_integers(numbers, 1))
    return ()
