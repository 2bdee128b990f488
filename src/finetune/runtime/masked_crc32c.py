"""Masked CRC-32C, the checksum of TFRecord streams and TensorBoard event files: rotated, plus a constant.

Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import google_crc32c
import numpy as np

_MASK = 0xA282EAD8
_MIN_ARRAY_LENGTH = 1 << 14
"""Length from which on creating an array takes less time than copying the bytes."""


def masked_crc32c(content: memoryview | bytes) -> int:
    """Return the masked CRC-32C."""
    # The library accepts bytes and arrays, not views.
    is_short = len(content) < _MIN_ARRAY_LENGTH
    crc: int = google_crc32c.value(bytes(content) if is_short else np.frombuffer(content, np.uint8))
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF
