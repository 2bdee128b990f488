"""Several processes of a host resume in the middle of an epoch with the streams that the simulator sends."""

from __future__ import annotations

import json
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sagemaker_simulator import FeederOptions, PipeSource
from sagemaker_simulator.feeder import PipeFeeder
from tests.support.stream_sharing import BATCH, processes
from tests.support.stream_writers import recordio

pytestmark = pytest.mark.slow

LENGTHS = (9 * BATCH + 1, 6 * BATCH + 3)


def run(folder: Path, objects: list[Path], mode: str, used: list[list[int]]) -> list[Any]:
    """The records of two processes in two epochs, each from its own channel, or the second from the first."""
    folder.mkdir()
    (folder / "used").write_text(json.dumps(used))
    with ExitStack() as stack:
        for rank, object_folder in enumerate(objects if mode == "own" else objects[:1]):
            pipes = folder / str(rank) if mode == "own" else folder
            pipes.mkdir(exist_ok=True)
            stack.callback(PipeFeeder("train", pipes, object_folder, PipeSource(), FeederOptions()).kill)
        started = stack.enter_context(processes(folder, folder / "group", "recordio", 2, 2, mode, str(folder / "used")))
        return [json.loads(process.communicate(timeout=120)[0]) for process in started]


@pytest.mark.parametrize("mode", ["shared", "own"])
def test_resumed_processes_receive_the_remaining_records(tmp_path: Path, mode: str) -> None:
    objects = [tmp_path / f"objects-{rank}" for rank in range(2)]
    for rank, folder in enumerate(objects):
        folder.mkdir()
        for part in range(2):
            numbers = range(part, LENGTHS[rank], 2)
            records = (struct.pack("<IfQQ", 0, n % 3, n, 0) + b"\xff\xd8" + bytes([rank] * n) for n in numbers)
            (folder / f"{part}.rec").write_bytes(b"".join(map(recordio, records)))
    whole = run(tmp_path / "whole", objects, mode, [[], []])
    used = [[identity for batch in epochs[0][0][:2] for identity in batch["identities"]] for epochs in whole]
    resumed = run(tmp_path / "resumed", objects, mode, used)
    assert all(len(epochs[0][0]) > 4 for epochs in whole)
    assert resumed == [[[first[0][2:], first[1]], second] for first, second in whole]
