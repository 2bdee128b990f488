"""Steps are sampled often enough to detect uneven ones, and rarely enough to be free in short epochs."""

from __future__ import annotations

from itertools import pairwise

import pytest

from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.timing import StepTiming
from finetune.training.observers import rules as watching
from finetune.training.state import EpochMetrics
from tests.support.training_setup import Lesson, request


def observed(epochs: int, slow: range) -> list[list[dict[str, object]]]:
    """Findings by epoch and at the end: steps take a second; in `slow` epochs, every tenth takes a minute."""
    lesson = Lesson(request(epochs=str(epochs)))
    lesson.rules.steps_per_epoch, lesson.rules.validation_records = 100, 0
    rows: list[EpochMetrics] = []
    told: list[list[dict[str, object]]] = []
    for epoch in range(epochs):
        lesson.rules.epoch_begins(lesson.state, lesson.training.plan.phases[0])
        seconds = [60.0 if epoch in slow and not step % 10 else 1.0 for step in range(100)]
        lesson.rules.timing.steps.extend(StepTiming(epoch, one, 8) for one in seconds)
        rows.append({"train:loss": 1 / (1 + epoch), "train:accuracy": 1.0})
        lesson.rules.epoch_done(epoch, rows[-1], rows)
        told.append(list(lesson.findings.run_history.machine_findings))
    lesson.state.history.rows[:] = rows
    lesson.rules.end(lesson.state)
    told.append(list(lesson.findings.run_history.machine_findings))
    return told


def test_the_first_epochs_are_looked_at_when_they_end() -> None:
    told = observed(6, slow=range(3, 6))
    assert [len(one) for one in told] == [0, 0, 0, 0, 1, 1, 1]
    assert told[-1][0]["rule"] == "StepOutlier"


def test_the_last_epochs_are_looked_at_in_the_end() -> None:
    # The last sample before that comes after the thirty-third step, when there are too few.
    told = observed(36, slow=range(28, 36))
    assert [len(one) for one in told[-3:]] == [0, 0, 1]


def test_looks_are_rarer_the_more_there_is_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def counted(steps: object, rules: Rules, step: int, setup: Setup) -> list[Finding]:
        looks.append(step)
        return []

    monkeypatch.setattr(watching, "check_step_times", counted)
    observed(200, slow=range(0))
    assert looks[:10] == [100 * n for n in range(1, 11)]
    assert len(looks) < 50
    assert looks[-1] == 20_000
    assert all(after <= 1.2 * before for before, after in pairwise(looks[9:]))
