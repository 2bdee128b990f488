"""A process that writes checkpoints until it is killed."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from finetune.checkpoint import BackgroundWriter, CheckpointStore, SnapshotBuffers, Stateful
from tests.checkpoint.states import Holder, about, parts_at


def parts_of(step: int) -> dict[str, Stateful]:
    """Large enough that a kill often interrupts a write."""
    ballast = torch.randn(1 << 18, generator=torch.Generator().manual_seed(step))
    return {**parts_at(step), "ballast": Holder({"values": ballast})}


def write_until_killed(folder: Path, steps: Connection) -> None:
    """Resume, then write one checkpoint per step, and report each step that is reported as written."""
    torch.set_num_threads(1)
    store, buffers = CheckpointStore(folder), SnapshotBuffers()
    loaded = store.restore()
    step = 0 if loaded is None else loaded.manifest.info.step
    steps.send(step)
    writer = BackgroundWriter(store)
    while True:
        step += 1
        writer.submit(buffers.take(parts_of(step)), about(step, best=step % 7 == 0))
        if step % 2:
            writer.wait()
            steps.send(step)
