"""Hosts with their own records (`ShardedByS3Key`) use each record once, and the processes per host change no bit."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.distributed.world import World
from finetune.job.request import read_request
from finetune.job.run import run_job
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import Channel, Resources, TrainingRequest, feed_pipes, lay_out
from tests.support.pipes import as_files, image_records, piped_request, rename_channel
from tests.support.processes import run_worlds

pytestmark = pytest.mark.slow

SIZES = (2, 4)
HOSTS = ("algo-1", "algo-2")
COMMON = {"batch_size": "8", "epochs": "1", "shuffle_buffer": "7", "virtual_devices": "4", "workers": "1"}
FROM_SCRATCH = {**COMMON, "model_name": "resnet18", "strategy": "from_scratch", "image_size": "32"}
SOLVED = {"strategy": "feature_extraction", "head_solver": "lbfgs", "workers": "1", "virtual_devices": "4"}
PARTS = ("model/model.safetensors", "output/data/validation_predictions.csv")


def run_cases(world: World, folder: Path) -> None:
    """Run the job of each case as one of several processes of one of two hosts."""
    local_size = world.size // len(HOSTS)
    host, local_rank = divmod(world.rank, local_size)
    world = World(world.rank, world.size, local_rank, local_size, host, len(HOSTS))
    for case in sorted((folder / str(world.size)).iterdir()):
        with Interruption() as interruption:
            run_job(read_request(Paths(case / HOSTS[host])), interruption, world)
        world.barrier()


def on_host(request: TrainingRequest, host: int) -> TrainingRequest:
    channels = tuple(channel.on_host(host, len(HOSTS)) for channel in request.channels)
    return replace(request, channels=channels, resources=Resources(HOSTS, HOSTS[host]))


def distributed(folder: Path, per_class: int, first: int, objects: int) -> Channel:
    """Image records in several objects, of which the first host gets one more than the second."""
    channel = image_records(folder, per_class, first)
    more = image_records(folder.parent / f"{folder.name}-more", per_class, first + 1000)
    for number in range(2, objects):
        shutil.copy(more.source / f"part-{number - 2}.rec", folder / f"part-{number}.rec")
    return replace(channel, distribution="ShardedByS3Key")


def test_hosts_with_their_own_records(tmp_path: Path, artifact: Path) -> None:
    train = distributed(tmp_path / "train", 12, 0, 3)
    validation = rename_channel(distributed(tmp_path / "validation", 5, 100, 3), "validation")
    validation = replace(validation, distribution="ShardedByS3Key")
    files = tuple(replace(as_files(channel), distribution="ShardedByS3Key") for channel in (train, validation))
    model = Channel("model", artifact)
    cases = {
        "file-head": piped_request((*files, model), {**COMMON, "strategy": "feature_extraction"}),
        "file-split": piped_request(files[:1], {**FROM_SCRATCH, "validation_fraction": "0.25"}),
        "file-solved": piped_request((*files, model), SOLVED),
        "pipe": piped_request((train, validation), FROM_SCRATCH),
        "pipe-solved": piped_request((train, validation, model), SOLVED),
    }
    feeders = []
    for size in SIZES:
        for name, request in cases.items():
            for host, host_name in enumerate(HOSTS):
                own = on_host(request, host)
                feeders += feed_pipes(lay_out(tmp_path / "jobs" / str(size) / name / host_name, own), own)
    try:
        run_worlds(SIZES, run_cases, tmp_path / "jobs")
    finally:
        for feeder in feeders:
            feeder.kill()
    for name in cases:
        roots = [tmp_path / "jobs" / size / name / "algo-1" for size in map(str, SIZES)]
        assert len({tuple((root / part).read_bytes() for part in PARTS) for root in roots}) == 1, name
        metrics = json.loads((roots[0] / "output/data/metrics.json").read_text())
        with (roots[0] / PARTS[1]).open(encoding="utf-8", newline="") as file:
            keys = [next(iter(row.values())) for row in csv.DictReader(file)]
        assert len(set(keys)) == len(keys) == metrics["validation"]["records"]
        if name in {"file-solved", "pipe-solved"}:
            assert metrics["job"]["head_solver"]["records"] == 54
        elif name != "file-split":
            # The first host has 36 of 54 records, and makes batches of 4; the second one runs out of records.
            assert (metrics["job"]["steps"], len(keys)) == (9 * int(COMMON["epochs"]), 23)
