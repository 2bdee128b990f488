"""Masked CRC-32C."""

from __future__ import annotations

import pytest

from finetune.runtime.masked_crc32c import masked_crc32c

# The check value of CRC-32C, masked.
MASKED = ((0xE3069283 >> 15 | 0xE3069283 << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("content", [b"123456789", memoryview(b"0123456789")[1:]])
def test_masked_check_value(content: bytes | memoryview) -> None:
    assert masked_crc32c(content) == MASKED


def test_long_content_gives_the_same_checksum_as_bytes_or_view() -> None:
    content = bytes(range(256)) * 100
    assert masked_crc32c(content) == masked_crc32c(memoryview(content))
