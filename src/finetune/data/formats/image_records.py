"""What does an image record of MXNet hold: which label, and which picture?

A header of flag, label and two ids comes first; a flag above 0 is the number of labels that follow the header instead.
Format: `IRHeader` in https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/mxnet/recordio
"""

from __future__ import annotations

import struct

from finetune.data.transforms.image_formats import HEAD_BYTES, is_image

_HEADER = struct.Struct("<IfQQ")
_MOST_LABELS = 1 << 20


def read_image_record(payload: memoryview) -> tuple[tuple[float, ...], memoryview]:
    """Give the labels and the encoded picture.

    Raises:
        ValueError: the payload is too short for what its header says.
    """
    if len(payload) < _HEADER.size:
        raise ValueError("is too short for an image record")
    flag, label, _, _ = _HEADER.unpack_from(payload)
    if not flag:
        return (label,), payload[_HEADER.size :]
    begin = _HEADER.size + 4 * flag
    if flag > _MOST_LABELS or begin > len(payload):
        raise ValueError(f"is too short for an image record with {flag} labels")
    return struct.unpack_from(f"<{flag}f", payload, _HEADER.size), payload[begin:]


def is_picture(content: memoryview | bytes) -> bool:
    """Whether the content begins as pictures do."""
    return is_image(bytes(content[:HEAD_BYTES]))
