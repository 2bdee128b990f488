"""A process killed during a write keeps every checkpoint it reported, and partial ones are never read."""

from __future__ import annotations

import logging
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

from finetune.checkpoint import CheckpointStore
from tests.checkpoint.states import same
from tests.checkpoint.victim import parts_of, write_until_killed

logger = logging.getLogger(__name__)

KILLS = 40


def last_said(steps: Connection) -> int:
    """The last step reported as written; called after the process is dead."""
    last = -1
    while steps.poll():
        try:
            last = steps.recv()
        except EOFError:
            break
    return last


def test_process_killed_at_random_times(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    logger.warning("seed of this run: %d", seed)
    moments = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])  # which every process would take seconds to import
    reached = 0
    torn = 0
    for _ in range(KILLS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=write_until_killed, args=(tmp_path, theirs))
        process.start()
        theirs.close()
        resumed = ours.recv()
        assert resumed == reached
        # Some of them after a complete write, however long it takes.
        said = ours.recv() if moments.random() < 0.5 else resumed
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        said = max(said, last_said(ours))
        torn += any(tmp_path.rglob("*.sagemaker-ignore"))
        reached = restored_step(tmp_path)
        assert reached >= max(said, resumed), f"seed {seed}"
    assert reached > 0, f"seed {seed}"
    logger.warning("%d of %d kills fell into a write; step %d was reached", torn, KILLS, reached)


def restored_step(folder: Path) -> int:
    loaded = CheckpointStore(folder).newest_complete()
    if loaded is None:
        return 0
    step = loaded.manifest.info.step
    expected = {name: dict(part.state_dict()) for name, part in sorted(parts_of(step).items())}
    assert same(dict(loaded.parts), expected)
    return step
