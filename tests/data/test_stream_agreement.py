"""Do processes with a channel each end an epoch together, and does none of them wait for one that is gone?"""

from __future__ import annotations

import json
import signal
import struct
import threading
from pathlib import Path

from dealing import BATCH, feed, processes
from stream_writers import recordio


def pictures(count: int) -> bytes:
    return b"".join(recordio(struct.pack("<IfQQ", 0, n % 3, n, 0) + b"\xff\xd8" + bytes(n % 9)) for n in range(count))


def fed(tmp_path: Path, counts: tuple[int, ...], epochs: int, pause: threading.Event | None = None) -> Path:
    """A folder with the channels of so many processes, with so many records each."""
    for rank, count in enumerate(counts):
        (tmp_path / str(rank)).mkdir()
        feed(tmp_path / str(rank), pictures(count), epochs, pause)
    return tmp_path


def test_an_epoch_ends_for_all_where_the_first_channel_ends(tmp_path: Path) -> None:
    pipes = fed(tmp_path, (5 * BATCH, 3 * BATCH, 7 * BATCH), 2)
    with processes(pipes, tmp_path / "table", "recordio", 3, 2, "own") as started:
        found = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert [[len(batches) for batches, _ in epochs] for epochs in found] == [[3, 3]] * 3


def test_a_process_that_is_gone_is_an_error_and_a_stop_ends_the_wait(tmp_path: Path) -> None:
    for number, (signal_number, told) in enumerate(((signal.SIGKILL, "failed: "), (signal.SIGTERM, "stopped"))):
        place = tmp_path / str(number)
        place.mkdir()
        pause = threading.Event()
        pipes = fed(place, (40 * BATCH, 40 * BATCH), 99, pause)
        with processes(pipes, place / "table", "recordio", 2, 99, "own") as started:
            assert [process.stdout.readline() for process in started if process.stdout] == ["batch\n"] * 2
            started[1].send_signal(signal_number)
            if signal_number == signal.SIGTERM:
                started[0].send_signal(signal_number)
            pause.set()
            assert started[0].communicate(timeout=120)[0].splitlines()[-1].startswith(told)
