"""The check of all devices before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.distributed.health_check import check_devices
from finetune.distributed.world import ProcessLostError, World
from tests.support.processes import run_processes

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def check_and_lose_a_process(world: World, folder: Path) -> None:
    del folder
    assert check_devices(world, CPU).startswith("all-reduce of 4 MiB at ")
    world.barrier()
    if world.rank == 1:
        return
    with pytest.raises(ProcessLostError, match="has ended or cannot be reached"):
        check_devices(world, CPU)


def test_check_passes_and_notices_a_process_that_ended(tmp_path: Path) -> None:
    run_processes(2, check_and_lose_a_process, tmp_path)
