"""The findings of rules, and the step at which they stop a job, are the same after an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.jobs import text_job
from tests.interruptions.moments import after_line, after_uploads
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Disturbance, Zygote, start, with_changes

FINDING = "WARNING: rule UnchangedTensor at step 50"
"""Reported at step 100, when the sample of step 50 is read."""


def stopping_job(folder: Path) -> TrainingJob:
    job = text_job(folder, "full", epochs="40")
    return with_changes(job, rules="UnchangedTensor:num_steps=3:atol=1e9", rule_action="stop")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disturbance", "every_steps"),
    [(after_line(FINDING, 0.0), 60), (after_line(FINDING, 0.02), 1), (after_uploads(2), 7)],
    ids=["found, not yet saved", "found and saved", "before"],
)
def test_rule_stops_job_at_same_step(
    disturbance: Disturbance, every_steps: int, zygote: Zygote, tmp_path: Path
) -> None:
    job = with_changes(stopping_job(tmp_path / "job"), checkpoint_interval_steps=every_steps)
    reference = start(zygote, replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    assert reference.exit_code == 0, reference.log
    expected = read_output(reference.folder)
    assert expected.metrics["job"]["steps"] == 101
    assert expected.metrics["findings"][0]["rule"] == "UnchangedTensor"
    start(zygote, job, tmp_path / "opt-ml", disturbance)
    for _ in range(2):  # the second start finds that a rule has stopped the job, and does not train
        resumed = start(zygote, job, tmp_path / "opt-ml")
        assert resumed.exit_code == 0, resumed.log
        assert_same_bits(read_output(resumed.folder), expected)
    assert resumed.epoch_lines() == []


@pytest.mark.slow
def test_stopped_job_continues_when_rules_only_log(zygote: Zygote, tmp_path: Path) -> None:
    job = stopping_job(tmp_path / "job")
    stopped = start(zygote, job, tmp_path / "opt-ml")
    assert stopped.exit_code == 0, stopped.log
    resumed = start(zygote, with_changes(job, rule_action="log"), tmp_path / "opt-ml")
    assert read_output(resumed.folder).metrics["job"]["steps"] == 120
