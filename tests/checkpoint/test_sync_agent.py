"""With a sync agent that copies in any order and stops at any time, a restart finds a complete checkpoint."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import pytest

from finetune.checkpoint import BackgroundWriter, CheckpointStore, SnapshotBuffers
from sagemaker_simulator import SyncAgent, SyncOptions, restore
from tests.checkpoint.states import checkpoint_info, is_state_at, make_parts

logger = logging.getLogger(__name__)

STARTS = 12


@pytest.mark.parametrize("mirror_deletions", [False, True])
def test_interrupted_sync_at_random_times(tmp_path: Path, mirror_deletions: bool) -> None:
    seed = random.SystemRandom().getrandbits(32)
    logger.warning("seed of this run: %d", seed)
    rng = random.Random(seed)
    remote = tmp_path / "s3"
    last_step = 0
    for start in range(STARTS):
        local = tmp_path / f"instance-{start}"
        local.mkdir()
        restore(remote, local)
        loaded = CheckpointStore(local).restore()
        step = 0 if loaded is None else loaded.manifest.info.step
        if loaded is not None:
            assert is_state_at(loaded.parts, step), f"seed {seed}"
        if not mirror_deletions:
            assert step >= last_step, f"seed {seed}"
        last_step = step
        options = SyncOptions(rng.getrandbits(32), 0.001, (0.0, 0.004), mirror_deletions=mirror_deletions)
        agent = SyncAgent(local, remote, options)
        write_for(rng.uniform(0.05, 0.25), CheckpointStore(local), step, min_checkpoints=3)
        agent.kill()
    assert last_step > 0, f"seed {seed}"


def test_checkpoints_stay_until_uploaded(tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "s3"
    local.mkdir()
    agent = SyncAgent(local, remote, SyncOptions(scan_seconds=0.001))
    store = CheckpointStore(local, keep=1)
    for step in range(1, 6):
        write_for(0.0, store, step - 1)
    agent.finish()
    write_for(0.0, store, 5)
    assert [name.step for name in store.names()] == [6, 5]
    loaded = CheckpointStore(remote).newest_complete()
    assert loaded is not None
    assert loaded.manifest.info.step == 5


def write_for(seconds: float, store: CheckpointStore, step: int, min_checkpoints: int = 1) -> None:
    """Write checkpoints of the steps after `step`, for `seconds` and at least `least` of them."""
    buffers, end, enough = SnapshotBuffers(), time.monotonic() + seconds, step + min_checkpoints
    with BackgroundWriter(store) as writer:
        while step < enough or time.monotonic() < end:
            step += 1
            writer.submit(buffers.take(make_parts(step)), checkpoint_info(step, best=step % 5 == 0))
