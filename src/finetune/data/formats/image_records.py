"""Reads MXNet image records: labels and an encoded image.

The header consists of a flag, a label and two ids. A flag above 0 is the number of labels that follow the header.
Format: `IRHeader` in https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/mxnet/recordio
"""

from __future__ import annotations

import struct

from finetune.data.transforms.image_formats import HEAD_BYTES, is_image

_HEADER = struct.Struct("<IfQQ")
_MAX_LABELS = 1 << 20


def read_image_record(payload: memoryview) -> tuple[tuple[float, ...], memoryview]:
    """Return the labels and the encoded image.

    Raises:
        ValueError: if the payload is shorter than its header requires.
    """
    if len(payload) < _HEADER.size:
        raise ValueError(f"has {len(payload)} bytes, too few for the {_HEADER.size}-byte header of an image record")
    flag, label, _, _ = _HEADER.unpack_from(payload)
    if not flag:
        return (label,), payload[_HEADER.size :]
    start = _HEADER.size + 4 * flag
    if flag > _MAX_LABELS or start > len(payload):
        raise ValueError(f"has {len(payload)} bytes, too few for an image record with {flag} labels")
    return struct.unpack_from(f"<{flag}f", payload, _HEADER.size), payload[start:]


def is_encoded_image(content: memoryview | bytes) -> bool:
    """Return whether the content starts with the signature of an image format."""
    return is_image(bytes(content[:HEAD_BYTES]))
