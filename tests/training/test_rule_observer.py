"""Steps are sampled often enough to detect uneven ones, and rarely enough to be free in short epochs."""

from __future__ import annotations

from itertools import pairwise

import pytest

from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.timing import StepTiming
from finetune.training.observers import rules as rule_observer
from finetune.training.saved_state.state import EpochMetrics
from tests.support.training_setup import TinyTraining, request


def findings_by_epoch(epochs: int, slow: range) -> list[list[dict[str, object]]]:
    """Findings by epoch and at the end: steps take a second; in `slow` epochs, every tenth takes a minute."""
    run = TinyTraining(request(epochs=str(epochs)))
    run.rules.steps_per_epoch, run.rules.validation_records = 100, 0
    rows: list[EpochMetrics] = []
    findings: list[list[dict[str, object]]] = []
    for epoch in range(epochs):
        run.rules.epoch_begins(run.state, run.training.plan.phases[0])
        seconds = [60.0 if epoch in slow and not step % 10 else 1.0 for step in range(100)]
        run.rules.timing.steps.extend(StepTiming(epoch, duration, 8) for duration in seconds)
        rows.append({"train:loss": 1 / (1 + epoch), "train:accuracy": 1.0})
        run.rules.epoch_done(epoch, rows[-1], rows)
        findings.append(list(run.findings.run_history.machine_findings))
    run.state.history.rows[:] = rows
    run.rules.end(run.state)
    findings.append(list(run.findings.run_history.machine_findings))
    return findings


def test_first_epochs_are_checked_when_they_end() -> None:
    findings = findings_by_epoch(6, slow=range(3, 6))
    assert [len(entries) for entries in findings] == [0, 0, 0, 0, 1, 1, 1]
    assert findings[-1][0]["rule"] == "StepOutlier"


def test_last_epochs_are_checked_at_the_end() -> None:
    # The last sample before that comes after the thirty-third step, when there are too few.
    findings = findings_by_epoch(36, slow=range(28, 36))
    assert [len(entries) for entries in findings[-3:]] == [0, 0, 1]


def test_step_times_are_checked_less_often_as_steps_accumulate(monkeypatch: pytest.MonkeyPatch) -> None:
    checked_steps: list[int] = []

    def record(steps: object, rules: Rules, step: int, setup: Setup) -> list[Finding]:
        checked_steps.append(step)
        return []

    monkeypatch.setattr(rule_observer, "check_step_times", record)
    findings_by_epoch(200, slow=range(0))
    assert checked_steps[:10] == [100 * n for n in range(1, 11)]
    assert len(checked_steps) < 50
    assert checked_steps[-1] == 20_000
    assert all(after <= 1.2 * before for before, after in pairwise(checked_steps[9:]))
