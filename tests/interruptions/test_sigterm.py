"""A job that is asked to stop finishes its step, saves, exports what it has learnt, and exits with 0 in good time."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from interruptions.jobs import text_job, vision_job
from interruptions.moments import UNFINISHED, after_line, at_file
from interruptions.results import account_in, assert_same_bits, left_in
from interruptions.starts import Disturbance, Zygote, start, with_changes
from sagemaker_simulator import Interruption, Moment, Storage, TrainingJob, run_job, run_with_interruptions

PATIENCE_SECONDS = 60.0
"""Half of what the platform allows; the jobs take a fraction of a second on a machine with nothing else to do."""


def sigterm(moment: Disturbance, times: int = 1) -> Disturbance:
    return replace(moment, signals=(signal.SIGTERM,) * times)


def uninterrupted(zygote: Zygote, job: TrainingJob, place: Path) -> Path:
    ended = start(zygote, replace(job, storage=Storage(place / "reference")), place / "whole")
    assert ended.exit_code == 0, ended.log
    return ended.folder.root


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "moment",
    [
        after_line("Network", 0.0),
        after_line("epoch=", 0.03, 2),
        after_line("epoch=", 0.005, 1),
        at_file(UNFINISHED, 0.3, 0.0),
    ],
    ids=["before the first step", "training", "after an epoch", "a save"],
)
def test_it_ends_in_order_and_goes_on_as_if_nothing_had_been(
    moment: Disturbance, times: int, zygote: Zygote, tmp_path: Path
) -> None:
    job = vision_job(tmp_path / "job", "gradual")
    root = uninterrupted(zygote, job, tmp_path)
    stopped = start(zygote, job, tmp_path / "opt-ml", sigterm(moment, times))
    assert stopped.exit_code == 0, stopped.log
    assert stopped.disturbed
    assert stopped.seconds_after_signal < PATIENCE_SECONDS
    if "nothing" not in stopped.log and "no model" not in stopped.log:
        assert "the model is exported as far as it came" in stopped.log
        assert (stopped.folder.model / "artifact.json").exists()
    again = start(zygote, job, tmp_path / "opt-ml")
    assert again.exit_code == 0, again.log
    assert_same_bits(left_in(again.folder), left_in(replace(again.folder, root=root)))


@pytest.mark.slow
def test_no_step_is_done_twice(zygote: Zygote, tmp_path: Path) -> None:
    job = with_changes(text_job(tmp_path / "job", "full", epochs="30"), checkpoint_interval_steps=None)
    stopped = start(zygote, job, tmp_path / "opt-ml", sigterm(after_line("epoch=", 0.02, 4)))
    assert stopped.disturbed
    again = start(zygote, job, tmp_path / "opt-ml")
    account = account_in(again.folder)
    assert account["starts"] == 2
    assert account["steps_repeated"] == 0
    assert account["last_step"] == 90
    assert account["start_seconds"] > 0


def test_nothing_is_exported_where_nothing_was_learnt(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full")
    stopped = start(zygote, job, tmp_path / "opt-ml", sigterm(after_line("Network", 0.0)))
    assert stopped.exit_code == 0, stopped.log
    if "epoch=" not in stopped.log:  # otherwise it was too late
        assert "there is no model to export" in stopped.log
        assert not list(stopped.folder.model.iterdir())


@pytest.mark.slow
def test_whole_processes_under_the_platforms_own_train(tmp_path: Path) -> None:
    """As in the image: start-up takes seconds, and SIGTERM also comes while torch is being imported."""
    job = text_job(tmp_path / "job", "partial", epochs="40")
    interruptions = (
        Interruption(Moment(0.0, "named columns"), "reclaim"),
        Interruption(Moment(0.02, "epoch=2;"), "reclaim_twice"),
        Interruption(Moment(0.05, "epoch="), "kill"),
        Interruption(Moment(0.0, "epoch=40;"), "reclaim"),
    )
    results = run_with_interruptions(job, tmp_path / "opt-ml", interruptions)
    for one in results[:-1]:
        assert one.exit_code == (137 if one.interruption and one.interruption.kind == "kill" else 0), one.log_text()
        assert (one.seconds_after_sigterm or 0.0) < PATIENCE_SECONDS
    assert results[-1].status == "Completed", results[-1].log_text()
    whole = run_job(replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    assert_same_bits(left_in(results[-1].folder), left_in(whole.folder))
