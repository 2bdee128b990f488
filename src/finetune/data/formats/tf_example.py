"""Decodes `tf.train.Example` messages.

Schema: tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.data.formats.protobuf_wire import entries, floats, integers, parts

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
        name: _feature(value) for features in parts(payload, _FEATURES) for name, value in entries(features, _FEATURE)
    }


def _feature(value: memoryview) -> Feature:
    for texts in parts(value, _BYTES_LIST):
        return tuple(bytes(one) for one in parts(texts, 1))
    for numbers in parts(value, _FLOAT_LIST):
        return tuple(floats(numbers, 1).tolist())
    for numbers in parts(value, _INT64_LIST):
        return tuple(integers(numbers, 1))
    return ()
