"""The processes of a job."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from finetune.distributed.world import ProcessLostError, World
from tests.support.processes import run_processes


def test_single_process_is_the_main_one_and_waits_for_none() -> None:
    world = World()
    assert world.is_main
    world.barrier()


@pytest.mark.parametrize(("rank", "size", "local_rank"), [(1, 1, 0), (-1, 2, -1), (0, 2, 1)])
def test_impossible_ranks_are_refused(rank: int, size: int, local_rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank}"):
        World(rank, size, local_rank)


def wait_for_the_last(world: World, folder: Path) -> None:
    if world.is_main:
        time.sleep(0.5)
        (folder / "late").touch()
    world.barrier()
    assert (folder / "late").exists()


def test_barrier_waits_for_all(tmp_path: Path) -> None:
    run_processes(3, wait_for_the_last, tmp_path)


def fail_in_one(world: World, folder: Path) -> None:
    failure = ValueError("no such record") if world.rank == 1 else None
    expected = ValueError if world.rank == 1 else ProcessLostError
    with pytest.raises(expected, match="no such record"):
        world.raise_in_all(failure)
    world.raise_in_all(None)
    (folder / str(world.rank)).touch()


def test_failure_of_one_process_is_raised_in_all(tmp_path: Path) -> None:
    run_processes(3, fail_in_one, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_failure_of_a_single_process_is_raised() -> None:
    World().raise_in_all(None)
    with pytest.raises(ValueError, match="wrong"):
        World().raise_in_all(ValueError("wrong"))
