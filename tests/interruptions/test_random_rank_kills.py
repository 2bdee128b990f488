"""Kills one or all processes of a job at random moments; each start has another number of processes, or sharding."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sagemaker_simulator import TrainingRequest
from tests.interruptions.jobs import RULES_WITHOUT_TENSORS, text_job, vision_job
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Zygote, with_changes
from tests.support.forked_ranks import Ranks, start_ranks, train_in_ranks

RANKS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Moment:
    """A moment of a start, and the signal that is sent then.

    Attributes:
        when: the condition.
        seconds: delay after that.
        everyone: whether all ranks get the signal, or one of them.
    """

    name: str
    when: Callable[[Ranks], bool]
    seconds: float
    signal: signal.Signals
    everyone: bool


def draw_moment(rng: random.Random) -> Moment:
    """Draw a moment; kills are more frequent than stops."""
    seconds = rng.uniform(0.0, 0.6)
    conditions: dict[str, Callable[[Ranks], bool]] = {
        "start": lambda ranks: True,
        "first step": lambda ranks: "first batch trained" in ranks.text(),
        "an epoch": lambda ranks: "\nepoch=" in ranks.text(),
        "a checkpoint": lambda ranks: any(ranks.folder.checkpoints.glob("*.sagemaker-ignore")),
        "the export": lambda ranks: (ranks.folder.model / ".artifact.partial").exists(),
    }
    name = rng.choice(("start", "first step", "first step", "an epoch", "an epoch", "a checkpoint", "the export"))
    number = rng.choice((*[signal.SIGKILL] * 5, signal.SIGTERM))
    return Moment(name, conditions[name], seconds if name != "a checkpoint" else 0.0, number, rng.random() < 0.4)


def interrupt(ranks: Ranks, moment: Moment, rng: random.Random) -> str:
    """Send the moment's signal, unless a rank ends before; return how the job ended: `killed`, `stopped` or `ended`."""
    targets = set(range(len(ranks.processes)) if moment.everyone else [rng.randrange(len(ranks.processes))])

    def can_be_sent() -> bool:
        return moment.signal is signal.SIGKILL or ranks.handle_sigterm(targets)

    if ranks.wait_for(lambda: moment.when(ranks) and can_be_sent()):
        later = ranks.seconds + moment.seconds
        if ranks.wait_for(lambda: ranks.seconds >= later):
            ranks.send(moment.signal, targets)
            if moment.signal is signal.SIGKILL:
                return "killed" if -signal.SIGKILL in ranks.end() else "ended"
            assert ranks.end() == [0] * len(ranks.processes), ranks.text()
            return "stopped"
    ranks.end()
    return "ended"


def assert_rank_kills_change_nothing(
    zygote: Zygote, requests: Sequence[TrainingRequest], folder: Path, rng: random.Random, kills: int
) -> None:
    """Run a job in one process; then from the beginning to the end as often as needed, with `kills` kills in total.

    Each start has any of the requests, which differ in nothing that the result depends on.
    """
    expected = read_output(train_in_ranks(zygote, requests[0], folder / "whole", 1))
    root, done = folder / "opt-ml", 0
    while done < kills:
        moment, count = draw_moment(rng), rng.choice(RANKS)
        number = rng.randrange(len(requests))
        ranks = start_ranks(zygote, requests[number], root, count)
        outcome = interrupt(ranks, moment, rng)
        done += outcome == "killed"
        sys.stdout.write(
            f"request {number}, {count} processes, {moment.signal.name} to {'all' if moment.everyone else 'one'}"
            f" {moment.seconds:.3f} s after {moment.name}: {outcome}\n"
        )
        if outcome == "ended":
            assert "Done." in ranks.text(), ranks.text()
            assert_same_bits(read_output(ranks.folder), expected)
            shutil.rmtree(root)
    assert_same_bits(read_output(train_in_ranks(zygote, rng.choice(requests), root, rng.choice(RANKS))), expected)


def kills_of(default: int) -> int:
    """How often a job is killed: `INTERRUPTIONS_KILLS` times."""
    return int(os.environ.get("INTERRUPTIONS_KILLS", default))


@pytest.mark.timeout(14_400)
def test_text_job_with_killed_ranks_has_the_same_bits(zygote: Zygote, tmp_path: Path, seed: str) -> None:
    job = text_job(tmp_path / "job", "full", virtual_devices="4", gradient_accumulation_steps="1", epochs="8")
    assert_rank_kills_change_nothing(zygote, [job.request], tmp_path, random.Random(f"{seed} texts"), kills_of(15))


@pytest.mark.timeout(14_400)
def test_image_job_with_killed_ranks_has_the_same_bits(zygote: Zygote, tmp_path: Path, seed: str) -> None:
    job = vision_job(tmp_path / "job", "from_scratch", virtual_devices="4", batch_size="24")
    assert_rank_kills_change_nothing(zygote, [job.request], tmp_path, random.Random(f"{seed} images"), kills_of(5))


@pytest.mark.timeout(14_400)
def test_job_with_killed_ranks_and_changing_sharding_has_the_same_bits(
    zygote: Zygote, tmp_path: Path, seed: str
) -> None:
    # Gradients are clipped by their norm; early stopping keeps the weights of the best epoch in checkpoints.
    job = text_job(tmp_path / "job", "partial", virtual_devices="4", epochs="8", rules=RULES_WITHOUT_TENSORS)
    requests = [with_changes(job, sharding=sharding).request for sharding in ("none", "full")]
    assert_rank_kills_change_nothing(zygote, requests, tmp_path, random.Random(f"{seed} sharding"), kills_of(5))


def stop_during_preparation(ranks: Ranks, rng: random.Random) -> None:
    """Send SIGTERM to one of the ranks after up to 0.4 s; all of them must end without a failure."""
    target, later = rng.randrange(len(ranks.processes)), rng.uniform(0.0, 0.4)
    assert ranks.wait_for(lambda: ranks.handle_sigterm({target}) and ranks.seconds >= later)
    ranks.send(signal.SIGTERM, {target})
    assert set(ranks.end()) == {0}, ranks.text()


def test_sigterm_to_one_process_during_the_preparation_stops_all(zygote: Zygote, tmp_path: Path, seed: str) -> None:
    job = text_job(tmp_path / "job", "full", virtual_devices="4", gradient_accumulation_steps="1")
    rng = random.Random(f"{seed} preparation")
    for start in range(8):
        stop_during_preparation(start_ranks(zygote, job.request, tmp_path / f"opt-ml-{start}", 3), rng)
