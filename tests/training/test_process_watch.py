"""The times of all processes are collected in the main process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from finetune.distributed.world import World
from finetune.monitoring.timing import Timing
from finetune.training.process_watch import ProcessWatch
from tests.support.processes import run_processes


def wait_and_watch(world: World, folder: Path) -> None:
    del folder
    timing = Timing()
    watch = ProcessWatch(world, timing)
    for _ in range(2):
        if world.rank == 1:
            with timing.host("data"):
                time.sleep(0.3)
        with timing.host("exchange"):
            world.barrier()
        watch.epoch_done()
    if not world.is_main:
        assert watch.processes == []
        return
    first, second = watch.processes
    assert first.exchange > 0.4 < second.data
    assert first.waiting > 0.8 > second.waiting


@pytest.mark.slow
def test_slow_process_is_the_one_that_does_not_wait(tmp_path: Path) -> None:
    run_processes(2, wait_and_watch, tmp_path)


def test_single_process_is_not_compared() -> None:
    watch = ProcessWatch(World(), Timing())
    watch.epoch_done()
    assert watch.processes == []
