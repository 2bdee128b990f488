"""Processes with a channel each end an epoch together, and none waits for one that has exited."""

from __future__ import annotations

import json
import signal
import struct
import threading
from pathlib import Path

import pytest

from tests.support.stream_sharing import BATCH, feed, processes
from tests.support.stream_writers import recordio

pytestmark = pytest.mark.slow


def images(count: int) -> bytes:
    return b"".join(recordio(struct.pack("<IfQQ", 0, n % 3, n, 0) + b"\xff\xd8" + bytes(n % 9)) for n in range(count))


def channels(tmp_path: Path, counts: tuple[int, ...], epochs: int, pause: threading.Event | None = None) -> Path:
    """A folder with one channel per process, with `counts` records each."""
    for rank, count in enumerate(counts):
        (tmp_path / str(rank)).mkdir()
        feed(tmp_path / str(rank), images(count), epochs, pause)
    return tmp_path


def test_epoch_ends_for_all_processes_with_the_shortest_channel(tmp_path: Path) -> None:
    pipes = channels(tmp_path, (5 * BATCH, 3 * BATCH, 7 * BATCH), 2)
    with processes(pipes, tmp_path / "group", "recordio", 3, 2, "own") as started:
        results = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert [[len(batches) for batches, _ in epochs] for epochs in results] == [[3, 3]] * 3


@pytest.mark.parametrize(
    ("signalled", "signal_number", "output"),
    [([0], signal.SIGKILL, "failed: "), ([1], signal.SIGKILL, "failed: "), ([0, 1], signal.SIGTERM, "stopped")],
)
def test_exited_process_is_an_error_and_stop_request_ends_the_wait(
    tmp_path: Path, signalled: list[int], signal_number: int, output: str
) -> None:
    pause = threading.Event()
    pipes = channels(tmp_path, (40 * BATCH, 40 * BATCH), 99, pause)
    with processes(pipes, tmp_path / "group", "recordio", 2, 99, "own") as started:
        assert [process.stdout.readline() for process in started if process.stdout] == ["batch\n"] * 2
        for rank in signalled:
            started[rank].send_signal(signal_number)
        pause.set()
        survivor = started[0 if signal_number == signal.SIGTERM else 1 - signalled[0]]
        assert survivor.communicate(timeout=120)[0].splitlines()[-1].startswith(output)
