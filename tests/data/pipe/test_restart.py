"""Several processes of a host resume in the middle of an epoch with the streams that the simulator sends."""

from __future__ import annotations

import json
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sagemaker_simulator import PipeManners, PipeSource
from sagemaker_simulator.feeder import PipeFeeder
from tests.support.stream_sharing import BATCH, processes
from tests.support.stream_writers import recordio

LENGTHS = (9 * BATCH + 1, 6 * BATCH + 3)


def run(place: Path, objects: list[Path], how: str, used: list[list[int]]) -> list[Any]:
    """The records of two processes in two epochs, each from its own channel, or the second from the first."""
    place.mkdir()
    (place / "used").write_text(json.dumps(used))
    with ExitStack() as stack:
        for rank, folder in enumerate(objects if how == "own" else objects[:1]):
            pipes = place / str(rank) if how == "own" else place
            pipes.mkdir(exist_ok=True)
            stack.callback(PipeFeeder("train", pipes, folder, PipeSource(), PipeManners()).cut)
        started = stack.enter_context(processes(place, place / "table", "recordio", 2, 2, how, str(place / "used")))
        return [json.loads(process.communicate(timeout=120)[0]) for process in started]


@pytest.mark.parametrize("how", ["dealt", "own"])
def test_resumed_processes_receive_the_remaining_records(tmp_path: Path, how: str) -> None:
    objects = [tmp_path / f"objects-{rank}" for rank in range(2)]
    for rank, folder in enumerate(objects):
        folder.mkdir()
        for part in range(2):
            numbers = range(part, LENGTHS[rank], 2)
            records = (struct.pack("<IfQQ", 0, n % 3, n, 0) + b"\xff\xd8" + bytes([rank] * n) for n in numbers)
            (folder / f"{part}.rec").write_bytes(b"".join(map(recordio, records)))
    whole = run(tmp_path / "whole", objects, how, [[], []])
    used = [[one for batch in epochs[0][0][:2] for one in batch["identities"]] for epochs in whole]
    rest = run(tmp_path / "rest", objects, how, used)
    assert all(len(epochs[0][0]) > 4 for epochs in whole)
    assert rest == [[[first[0][2:], first[1]], second] for first, second in whole]
