"""Findings made during training are re-evaluated at its end."""

from __future__ import annotations

import logging

import pytest
import torch

from finetune.config.optimizers import LearningRateInUse
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.score import BestMetric
from finetune.training.saved_state.state import EpochMetrics
from tests.support.training_setup import TinyTraining, request

# Worse for three epochs, and best at the end.
RECOVERS = [(2.0, 2.0, 0.5), (1.0, 3.0, 0.1), (0.8, 4.0, 0.1), (0.5, 1.0, 0.6), (0.3, 0.5, 0.9)]
STAYS = [(2.0, 1.0, 0.9), (1.0, 3.0, 0.1), (0.8, 4.0, 0.1), (0.5, 5.0, 0.2), (0.3, 6.0, 0.2)]


def observed(
    course: list[tuple[float, float, float]], best_metric: BestMetric | None = None, setup: Setup | None = None
) -> TinyTraining:
    """A training run with these training losses, validation losses and accuracies."""
    metric = best_metric or BestMetric()
    run = TinyTraining(request(epochs=str(len(course))), best_metric=metric)
    run.rules.setup = setup or Setup(best_metric=metric)
    run.rules.epoch_begins(run.state, run.training.plan.phases[0])
    rows: list[EpochMetrics] = []
    for epoch, (train, validation, accuracy) in enumerate(course):
        row = {
            "train:loss": train, "train:accuracy": 0.5, "validation:loss": validation, "validation:accuracy": accuracy,
        }  # fmt: skip
        run.state.best.update(row, epoch, run.state.weights, 0.0)
        rows.append(row)
        run.rules.epoch_done(epoch, row, rows)
    run.state.history.rows[:] = rows
    return run


def test_temporary_overfitting_is_resolved(caplog: pytest.LogCaptureFixture) -> None:
    run = observed(RECOVERS)
    (middle,) = run.findings.entries
    assert (middle["rule"], middle["resolved"]) == ("Overfit", None)
    saved = run.findings.state_dict()
    with caplog.at_level(logging.INFO):
        run.rules.end(run.state)
    (end,) = run.findings.entries
    assert end["resolved"] == (
        "no longer holds after epoch 5: training loss 0.3000, validation loss 0.5000, accuracy 90.0%"
    )
    assert f"rule Overfit is resolved: {end['resolved']}" in caplog.messages
    # A job that resumes from its last checkpoint has not reached its end.
    assert saved["found"] == [middle]
    run.findings.load_state_dict({"found": [end], "stopped": False})
    assert run.findings.entries == [end]


def test_lasting_overfitting_is_reported_with_final_values() -> None:
    run = observed(STAYS, best_metric=BestMetric(exports=False))
    run.rules.end(run.state)
    (end,) = run.findings.entries
    assert end["resolved"] is None
    assert end["where"] == "epoch 5"
    assert "rose from 1.0000 to 6.0000" in str(end["seen"])
    assert end["advice"] == "remove best_metric=none to export the best epoch."


def test_overfitting_after_the_exported_epoch_is_resolved() -> None:
    run = observed(STAYS)
    assert "set early_stopping_patience=3 to end training after the best" in str(run.findings.entries[0]["advice"])
    run.rules.end(run.state)
    (end,) = run.findings.entries
    assert end["resolved"] == "the weights of epoch 1, the best one, are exported"


def test_late_loss_decrease_resolves_finding() -> None:
    run = observed([(2.0, 2.0, 0.5)] * 6 + [(0.2, 1.0, 0.9)] * 3)
    assert [entry["rule"] for entry in run.findings.entries] == ["LossNotDecreasing"]
    run.rules.end(run.state)
    assert "training loss 0.2000" in str(run.findings.entries[0]["resolved"])


def test_finding_that_stopped_the_job_is_not_resolved() -> None:
    run = observed(RECOVERS)
    run.findings.stopped = True
    run.rules.end(run.state)
    assert run.findings.entries[0]["resolved"] is None


def test_recovered_tensors_are_resolved() -> None:
    run = TinyTraining(request(epochs="9", batch_size="4", rules="VanishingGradient:threshold=1e9"))
    assert run.fit()
    assert [entry["rule"] for entry in run.findings.entries] == ["VanishingGradient"]
    watch = run.training.stepper.probe
    assert watch.refuted == frozenset()
    state = watch.state_dict()
    # The loss has decreased, so small gradients are expected.
    waiting = state["waiting"]
    assert waiting is not None
    watch.load_state_dict({**state, "waiting": {**waiting, "loss": torch.tensor(1e-3)}})
    run.rules.end(run.state)
    assert run.findings.entries[0]["resolved"] == "no longer the case in the last sample of the tensors"


EXPLODES = [(2.0, 1.0, 0.9), (1.0, 60.0, 0.2)]


def excessive() -> Setup:
    rate = LearningRateInUse("learning_rate", 0.01, "pretrained layers", "adamw", 2e-4, 2e-5, 1e-3)
    return Setup(usual_rates=[rate], guess_loss=1.1)


def rules_of(run: TinyTraining) -> dict[str, object]:
    return {str(entry["rule"]): entry["resolved"] for entry in run.findings.entries}


def test_loss_that_exploded_for_an_epoch_is_resolved() -> None:
    run = observed([*EXPLODES, (0.5, 0.5, 0.9)], setup=excessive())
    assert rules_of(run)["ExplodingLoss"] is None
    run.rules.end(run.state)
    assert "after epoch 3: training loss 0.5000, validation loss 0.5000" in str(rules_of(run)["ExplodingLoss"])


def test_lasting_explosion_is_a_finding_although_an_earlier_epoch_is_exported() -> None:
    run = observed(EXPLODES, setup=excessive())
    run.rules.begin()
    run.rules.end(run.state)
    assert rules_of(run)["ExplodingLoss"] is None
    # The learning rate that caused it is not excused by it.
    assert rules_of(run)["LearningRate"] is None


@pytest.mark.parametrize(("accuracy", "learned"), [(0.9, True), (0.2, False)])
def test_excessive_learning_rate_is_resolved_if_the_model_learned(accuracy: float, learned: bool) -> None:
    run = observed([(2.0, 2.0, 0.2), (1.0, 1.0, accuracy)], setup=excessive())
    run.rules.begin()
    run.rules.end(run.state)
    resolved = rules_of(run)["LearningRate"]
    assert (resolved is not None) == learned
    if learned:
        assert str(resolved).startswith("the model learned all the same: after epoch 2: training loss 1.0000")
