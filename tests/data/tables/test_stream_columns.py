"""The columns of a stream are those of its first epoch, in whatever order later epochs arrive."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.pipe.fifo import PipeOptions
from finetune.data.pipe.source import StreamSource
from tests.support.labelled_data import data_spec

HEADED = b"library,docstring\n" + b"".join(
    f"{name},it was some text of {name} number {at}\n".encode() for at in range(12) for name in ("cat", "dog")
)
BARE = b"".join(f"{name},more text of {name} it is {at}\n".encode() for at in range(12) for name in ("cat", "dog"))


def test_later_epoch_starting_without_header_has_same_records(tmp_path: Path) -> None:
    (tmp_path / "pipes").mkdir()
    for epoch in (0, 1):
        os.mkfifo(tmp_path / "pipes" / f"train_{epoch}")

    def feed() -> None:
        for epoch, content in enumerate((HEADED + BARE, BARE + HEADED)):
            (tmp_path / "pipes" / f"train_{epoch}").write_bytes(content)

    threading.Thread(target=feed, daemon=True).start()
    pipe_options = PipeOptions("train", tmp_path / "pipes", tmp_path / "state", 30, lambda: False)
    source = StreamSource(
        pipe_options, StreamLayout("channel 'train'", "csv"), DecodeOptions("text-classification", data_spec())
    )
    epochs, heads = [], []
    for _ in range(2):
        epochs.append(sorted((sample.decode().labels, sample.decode().content) for sample in source.read_next()))
        heads.append(source.head)
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 48
    assert heads[0] == heads[1]
