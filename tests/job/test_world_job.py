"""Only the main process of a job writes outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.distributed.world import World
from finetune.job.request import read_request
from finetune.job.run import run_job
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import Channel, TrainingRequest, lay_out
from tests.support.processes import run_processes

pytestmark = pytest.mark.slow

HYPERPARAMETERS = {
    "strategy": "from_scratch",
    "model_name": "resnet18",
    "image_size": "32",
    "epochs": "1",
    "batch_size": "8",
    "checkpoint_interval_steps": "1",
}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run_rank(world: World, folder: Path) -> None:
    """Run the job of one process in a folder of its own, to tell the files of the processes apart."""
    root, warm_pool = folder / f"rank-{world.rank}", folder / f"warm-pool-{world.rank}"
    warm_pool.mkdir()
    before = files_in(root)
    with Interruption() as interruption:
        run_job(read_request(Paths(root, warm_pool=warm_pool)), interruption, world)
    written = files_in(root) - before
    if not world.is_main:
        assert written | files_in(warm_pool) == set()
        return
    assert {"model/model.safetensors", "output/data/metrics.json", "output/data/report.html"} <= written
    assert {Path(name).parts[0] for name in written} == {"model", "output", "checkpoints"}
    assert any(name.startswith("output/tensorboard/") for name in written)


@pytest.mark.parametrize("size", [1, 2])
def test_only_main_process_writes_outputs(size: int, tmp_path: Path, holdout: Path) -> None:
    request = TrainingRequest(channels=(Channel("train", holdout),), hyperparameters=HYPERPARAMETERS)
    for rank in range(size):
        lay_out(tmp_path / f"rank-{rank}", request)
    run_processes(size, run_rank, tmp_path)
