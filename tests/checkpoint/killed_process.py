"""A process that writes checkpoints until it is killed."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from finetune.checkpoint import BackgroundWriter, CheckpointStore, SnapshotBuffers, Stateful
from tests.checkpoint.states import StaticState, checkpoint_info, make_parts


def make_large_parts(step: int) -> dict[str, Stateful]:
    """Large enough that a kill often interrupts a write."""
    ballast = torch.randn(1 << 18, generator=torch.Generator().manual_seed(step))
    return {**make_parts(step), "ballast": StaticState({"values": ballast})}


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
        writer.submit(buffers.take(make_large_parts(step)), checkpoint_info(step, best=step % 7 == 0))
        if step % 2:
            writer.wait()
            steps.send(step)
