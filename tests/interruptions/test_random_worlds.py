"""A job killed at random moments, and restarted with other numbers of hosts and processes, gives the same bits."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import (
    Hosts,
    JobResult,
    Schedule,
    Storage,
    TrainingJob,
    World,
    draw_interruptions,
    reason_unavailable,
    run_with_interruptions,
)
from tests.interruptions.jobs import vision_job
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Zygote
from tests.support.forked_ranks import train_in_ranks

MAX_HOSTS = 1 if reason_unavailable() else 2
MAX_PROCESSES = 4
MAX_KILLS_OF_JOB = 20
"""More kills are spread over several jobs: one that survives 200 trains hundreds of epochs, also uninterrupted."""
SCHEDULE = Schedule(
    earliest_seconds=0.0,
    latest_seconds=0.5,
    kinds=("kill", "kill_rank", "reclaim"),
    patterns=("^first batch trained", "^epoch="),
    hosts=(None, *Hosts(MAX_HOSTS).names),
    last_rank=MAX_PROCESSES - 1,
)


def describe(result: JobResult) -> str:
    """A line on the progress of one start."""
    kind = "uninterrupted" if result.interruption is None else result.interruption.kind
    num_epochs = result.log_text().count("\nepoch=")
    host = "" if result.interruption is None or result.interruption.host is None else f" of {result.interruption.host}"
    seconds = result.seconds_after_interruption or 0.0
    return (
        f"{result.status}, exit code {result.exit_code}, {num_epochs} epochs, {kind}{host}, end after {seconds:.1f} s"
    )


def hash_files(folder: Path) -> str:
    """The SHA-256 of the weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def run_with_kills(job: TrainingJob, folder: Path, rng: random.Random, kills: int) -> JobResult:
    """Run a job to its end, which comes after more than half of the given number of kills; return the last start."""
    worlds = []
    for _ in range(kills + 1):
        hosts = rng.randint(1, MAX_HOSTS)
        worlds.append(World(hosts, rng.randint(1, MAX_PROCESSES // hosts)))
    interruptions = draw_interruptions(SCHEDULE, kills, rng.randrange(1 << 32))
    results = run_with_interruptions(job.in_world(worlds[0]), folder, interruptions, worlds=worlds[1:])
    for world, result in zip(worlds, results, strict=False):
        sys.stdout.write(f"{world.hosts} x {world.processes_per_host} processes: {describe(result)}\n")
    assert results[-1].status == "Completed", results[-1].log_text()
    assert len(results) > (kills + 1) / 2, "too few interruptions came before the end"
    return results[-1]


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_numbers_of_hosts_and_processes_change_no_bit(zygote: Zygote, seed: str, tmp_path: Path) -> None:
    kills = int(os.environ.get("INTERRUPTIONS_KILLS", "2"))  # each start imports everything in every process
    kills_of_job = min(kills, MAX_KILLS_OF_JOB)
    job = vision_job(tmp_path / "job", "full", epochs=str(4 + 4 * kills_of_job), virtual_devices=str(MAX_PROCESSES))
    expected = read_output(train_in_ranks(zygote, job.request, tmp_path / "whole", 1))
    rng = random.Random(seed)
    for number in range(-(-kills // kills_of_job)):
        folder = tmp_path / str(number)
        killed = replace(job, storage=Storage(folder / "s3"))
        last = run_with_kills(killed, folder / "ml", rng, kills_of_job)
        assert_same_bits(read_output(last.folder), expected)
        sys.stdout.write(f"job {number}: SHA-256 of the weights: {hash_files(last.folder.model)}\n")
        shutil.rmtree(folder)
