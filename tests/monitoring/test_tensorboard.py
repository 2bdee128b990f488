"""Event files match TensorBoard's format, byte for byte."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import pytest

from finetune.monitoring.tensorboard import EventFile
from finetune.runtime.masked_crc32c import masked_crc32c

# Written by tensorboard 2.20 (EventFileWriter) and copied from its file: validation:loss=0.25 at step 300, time 1.0.
REFERENCE = bytes.fromhex("09000000000000f03f10ac022a180a160a0f76616c69646174696f6e3a6c6f7373150000803e")


def records(path: Path) -> list[bytes]:
    content, messages = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        message = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length])[0] == masked_crc32c(message)
        messages.append(message)
        content = content[16 + length :]
    return messages


def test_events_equal_those_of_tensorboard(tmp_path: Path) -> None:
    EventFile(tmp_path / "new", clock=lambda: 1.0).add_scalars(300, {"validation:loss": 0.25})
    (path,) = (tmp_path / "new").iterdir()
    assert path.name.startswith("events.out.tfevents.0000000001.")
    version, event = records(path)
    assert version.endswith(b"brain.Event:2")
    assert event == REFERENCE


def test_value_beyond_float32_is_written_as_infinity(tmp_path: Path) -> None:
    EventFile(tmp_path / "new").add_scalars(1, {"train:loss": 1e39, "other": -1e300})
    (path,) = (tmp_path / "new").iterdir()
    assert struct.pack("<f", float("inf")) in records(path)[1]
    assert struct.pack("<f", float("-inf")) in records(path)[1]


def test_unwritable_folder_logs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        events = EventFile(tmp_path / "file")
        events.add_scalars(1, {"a": 1.0})
    assert len(caplog.messages) == 1
