"""A process killed during a write keeps every checkpoint it reported, and partial ones are never read."""

from __future__ import annotations

import logging
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

from finetune.checkpoint import CheckpointStore
from tests.checkpoint.killed_process import make_large_parts, write_until_killed
from tests.checkpoint.states import states_equal

logger = logging.getLogger(__name__)

KILLS = 40


def last_reported_step(steps: Connection) -> int:
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
    rng = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])  # which every process would take seconds to import
    last_restored = 0
    num_interrupted = 0
    for _ in range(KILLS):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=write_until_killed, args=(tmp_path, sender))
        process.start()
        sender.close()
        resumed = receiver.recv()
        assert resumed == last_restored
        # Some of them after a complete write, however long it takes.
        reported = receiver.recv() if rng.random() < 0.5 else resumed
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        reported = max(reported, last_reported_step(receiver))
        num_interrupted += any(tmp_path.rglob("*.sagemaker-ignore"))
        last_restored = restored_step(tmp_path)
        assert last_restored >= max(reported, resumed), f"seed {seed}"
    assert last_restored > 0, f"seed {seed}"
    logger.warning("%d of %d kills fell into a write; step %d was reached", num_interrupted, KILLS, last_restored)


def restored_step(folder: Path) -> int:
    loaded = CheckpointStore(folder).newest_complete()
    if loaded is None:
        return 0
    step = loaded.manifest.info.step
    expected = {name: dict(part.state_dict()) for name, part in sorted(make_large_parts(step).items())}
    assert states_equal(dict(loaded.parts), expected)
    return step
