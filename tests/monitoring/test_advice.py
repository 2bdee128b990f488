"""The advice of every rule names hyperparameters that have an effect with the strategy, and allowed values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from finetune.config.hyperparameters import JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.config.rules import DEFAULTS
from finetune.config.unused import UNUSED_IN_SPEC, unused_hyperparameters
from finetune.monitoring.rules.chance import check_chance_level
from finetune.monitoring.rules.curves import (
    Row,
    TrainingCurves,
    check_class_balance,
    check_curves,
    check_rare_classes,
    patience_for_best,
)
from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.learning_rate import check_learning_rates
from finetune.monitoring.rules.machine import (
    MachineSample,
    ProcessTimes,
    check_load_balance,
    check_step_times,
    check_utilization,
)
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.rules.symptoms import check_evaluation, check_training
from finetune.monitoring.rules.tensors import TensorWatch
from finetune.monitoring.timing import StepTiming
from finetune.strategies.presets import ModelStructure, learning_rates_in_effect, make_plan
from finetune.strategies.usual_rates import usual_learning_rates

STRATEGIES = ("feature_extraction", "partial", "full", "gradual", "from_scratch", "evaluate")
GROUPS = ("stem", "middle", "head")
TRAINING_RULES = {*DEFAULTS, "Oscillating", "Underfit", "ValidationBetter", "Diverged", "WorseThanGuess", "ZeroRecall"}


@dataclass(frozen=True)
class Job:
    """A request, and the setup that the advice is based on."""

    hyperparameters: dict[str, str]
    spec: JobSpec
    setup: Setup


def make_job(strategy: str, **hyperparameters: str) -> Job:
    spec = parse_hyperparameters({"strategy": strategy, "task": "image-classification", **hyperparameters})
    images = spec.data.task == "image-classification"
    structure = ModelStructure(GROUPS, "image-classification" if images else "text-classification", new_head=True)
    plan = make_plan(spec.strategy, spec.optimization, structure)
    learning_rates = spec.optimization.learning_rate, spec.optimization.head_learning_rate
    setup = Setup(
        strategy=strategy,
        epochs=spec.optimization.epochs,
        learning_rates=learning_rates_in_effect(spec.strategy, spec.optimization, structure),
        usual_rates=usual_learning_rates(spec.strategy, spec.optimization, structure),
        guess_loss=1.1,
        learning_rates_set=learning_rates != (None, None),
        trains_all_layers=set(plan.phase(spec.optimization.epochs - 1).trainable) == set(GROUPS),
        is_image_task=images,
        multi_label=spec.data.multi_label,
        has_validation=spec.data.validation_fraction > 0,
        augmentation=spec.data.augmentation if images and strategy in {"full", "from_scratch"} else "none",
        has_dropout=True,
        patience=spec.optimization.early_stopping_patience,
        has_class_weights=spec.optimization.class_weights == "balanced",
        clip_norm=spec.optimization.gradient_clip_norm,
        weight_decay=spec.optimization.weight_decay,
        batch_size=spec.optimization.batch_size,
        max_length=None if images else 512,
    )
    return Job({"strategy": strategy, **hyperparameters}, spec, setup)


JOBS = {
    f"{strategy} {' '.join(f'{name}={value}' for name, value in hyperparameters.items())}".strip(): make_job(
        strategy, **hyperparameters
    )
    for strategy in STRATEGIES
    for hyperparameters in (
        dict[str, str](),
        {"epochs": "1"},
        {"validation_fraction": "0"},
        {"multi_label": "true"},
        {"task": "text-classification"},
        {"early_stopping_patience": "2"},
        {"class_weights": "balanced"},
        {"learning_rate": "0.001", "head_learning_rate": "0.01"},
        {"learning_rate": "0.01"},
        {"learning_rate": "10", "head_learning_rate": "0.01", "optimizer": "sgd"},
        {"learning_rate": "10", "head_learning_rate": "10", "weight_decay": "1", "batch_size": "65536"},
        {"augmentation": "strong", "epochs": "100000", "gradient_clip_norm": "0.5"},
    )
}


def rows(
    setup: Setup, train: list[float], validation: list[float], score: list[float], trained: float = 0.5
) -> list[Row]:
    name = "micro_f1" if setup.multi_label else "accuracy"
    rows_by_epoch: list[Row] = []
    for a, b, c in zip(train, validation, score, strict=True):
        row: dict[str, float] = {"train:loss": a, "train:accuracy": 0.0, f"train:{name}": trained}
        if setup.has_validation:
            row |= {"validation:loss": b, "validation:accuracy": 0.0, f"validation:{name}": c}
        rows_by_epoch.append(row)
    return rows_by_epoch


def curves(setup: Setup) -> Iterator[Finding]:
    flat = rows(setup, [2.3] * 6, [2.3] * 6, [0.1] * 6, 0.1)
    growing = rows(setup, [2.0, 4.0, 8.0, 9.0, 10.0, 12.0], [2.3] * 6, [0.1] * 6)
    worse = rows(setup, [2, 1, 0.5, 0.1, 0.01], [2, 1.2, 1.1, 1.4, 1.9], [0.4, 0.7, 0.8, 0.72, 0.65])
    converged_rows = rows(setup, [2, 1, *[0.5] * 12], [2, 1, *[0.9] * 12], [0.3, 0.7, *[0.8] * 12])
    exploding = rows(setup, [2, 1, 0.5], [2, 1.2, 8.0], [0.4, 0.7, 0.3])
    for curve_rows in (flat, growing, worse, converged_rows, exploding):
        yield from check_curves(TrainingCurves(curve_rows, 20, 500, setup), DEFAULTS)
    swinging = rows(setup, [2, 1, 2.2, 0.9, 2.1, 1.2], [1.0] * 6, [0.5] * 6)
    validation_better = rows(setup, [2, 1.8, 1.6, 1.5, 1.4, 1.3], [1.0] * 6, [0.9] * 6)
    diverged = rows(setup, [2, float("nan")], [1.0] * 2, [0.5] * 2)
    for curve_rows in (flat, swinging, validation_better, diverged):
        yield from check_training(TrainingCurves(curve_rows, 20, 500, setup), 0.1)


def answers(setup: Setup) -> Iterator[Finding]:
    counts = {"a": 1000, "b": 20}
    yield from check_class_balance(counts, DEFAULTS, setup)
    yield from check_class_balance({"a": 5, "b": 0}, DEFAULTS, setup)
    yield from check_rare_classes({"a": 0.9, "b": 0.1}, counts, DEFAULTS, setup)
    per_class = [{"label": "a", "support": 4, "recall": 1.0}, {"label": "b", "support": 2, "recall": 0.0}]
    metrics: dict[str, Any] = {"records": 6, "accuracy": 0.5, "majority_baseline_accuracy": 0.5, "majority_class": "a"}
    if setup.multi_label:
        metrics |= {"micro": {"f1": 0.1}, "majority_baseline_micro_f1": 0.4, "majority_labels": ["a"]}
    for learned in (True, False, None):
        yield from check_evaluation("test", {**metrics, "per_class": per_class}, setup, learned=learned)
        yield from check_chance_level("test", {**metrics, "accuracy": 0.6}, DEFAULTS, setup, learned=learned)
    yield from check_learning_rates(DEFAULTS, setup)


def machine(setup: Setup) -> Iterator[Finding]:
    for gpu, cpu, waiting, memory, grows in (
        (2, 97, 10, 80, 0), (2, 10, 90, 80, 0), (40, 50, 1, 90, 0), (40, 50, 1, 20, 0), (95, 40, 1, 50, 30),
    ):  # fmt: skip
        samples = [MachineSample(gpu, cpu, waiting, memory + grows * at / 1200) for at in range(1200)]
        yield from check_utilization(samples, DEFAULTS, 1, setup)
    uneven = [MachineSample(95.0 * bool(at % 5), 40, 1, 90) for at in range(1200)]
    yield from check_utilization(uneven, DEFAULTS, 1, setup)
    for data in (1, 40):
        yield from check_load_balance([ProcessTimes(data, 1, 100), ProcessTimes(1, 42, 100)], DEFAULTS, 5000, setup)
    yield from check_step_times([StepTiming(0, seconds, 8) for seconds in [0.1] * 500 + [5.0] * 15], DEFAULTS, 1, setup)


def tensors(setup: Setup) -> Iterator[Finding]:
    """Findings about samples of one tensor; `tensors.py` documents the columns of the numbers."""
    samples = {
        "VanishingGradient": ([0, 0, 0, 1, 0, 0, 1, 1, 0], 10, 1.0),
        "AllZero": ([1, 0, 1, 1, 0, 0, 1, 1, 0], 10, 1.0),
        "ExplodingTensor": ([1, 0, 0, 1, 5, 0, 1, 1, 0], 10, 1.0),
        "PoorWeightInitialization": ([1, 0, 0, 1, 0, 0, 1, 1, 1], 0, 1.0),
        "large": ([1, 0, 0, 1, 0, 0, 1000, 1, 0], 10, 1.0),
        "small": ([1, 0, 0, 1, 0, 0, 1e-12, 1, 0], 10, 1.0),
        "UnchangedTensor": ([1, 0, 0, 1, 0, 0, 1, 0, 0], 10, 1.0),
    }
    for numbers, step, loss in samples.values():
        watch = TensorWatch(
            nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)]), DEFAULTS, scaled=False, classes=3,
            setup=setup,
        )  # fmt: skip
        silences = [
            {"rule": rule, "layer": "1", "share": torch.ones(())} for rule in ("DeadRelu", "SaturatedActivation")
        ]
        sample = {
            "step": step, "names": ["0.weight"], "numbers": torch.tensor([numbers], dtype=torch.float32),
            "loss": torch.tensor(loss), "rate": 1.0, "silences": silences,
        }  # fmt: skip
        suspects = [["DeadRelu", "1"], ["SaturatedActivation", "1"]]
        watch.load_state_dict(
            {"first_loss": 1.0, "unchanged": {"0.weight": 2}, "suspects": suspects, "told": [], "waiting": sample}
        )
        yield from watch.read()


def all_findings(setup: Setup) -> list[Finding]:
    return [finding for check in (curves, answers, machine, tensors) for finding in check(setup)]


def advised(text: str) -> list[tuple[str, str]]:
    """Hyperparameters and values named in a text."""
    return re.findall(r"\b([a-z_0-9]+)=([\w-]+(?:\.\d+)?(?:e[+-]?\d+)?)", text)


def test_situations_trigger_every_rule() -> None:
    found = {finding.rule for finding in all_findings(JOBS["full"].setup)}
    assert found == TRAINING_RULES - {"LearningRate"}
    assert "LearningRate" in {finding.rule for finding in all_findings(JOBS["full learning_rate=0.01"].setup)}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_advice_names_effective_hyperparameters_with_allowed_values(job: Job) -> None:
    # Training rules do not apply to a job without training.
    findings = all_findings(job.setup) if job.setup.trains else list(answers(job.setup))
    assert findings
    for finding in findings:
        assert finding.advice.endswith(".")
        assert "None" not in finding.advice
        for alternative in re.split(r", or |; | or ", finding.advice):
            named = dict(advised(alternative))
            spec = parse_hyperparameters(job.hyperparameters | named)
            assert unused_hyperparameters(UNUSED_IN_SPEC, spec, named.keys()) == {}, finding
            assert not named.items() & job.hyperparameters.items(), finding


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_advice_respects_frozen_layers_and_class_weights(job: Job) -> None:
    for finding in all_findings(job.setup):
        if job.setup.trains_all_layers or not job.setup.trains:
            assert "strategy=full" not in finding.advice
            assert "train more layers" not in finding.advice
        if job.setup.strategy == "feature_extraction":
            assert "fewer layers" not in finding.advice
            assert "strategy=feature_extraction" not in finding.advice
        if job.setup.has_class_weights:
            assert "class_weights" not in finding.advice


def test_underfit_head_is_advised_to_train_more_layers_without_its_learning_rate() -> None:
    job = make_job("feature_extraction", learning_rate="0.003")
    (advice,) = {finding.advice for finding in curves(job.setup) if finding.rule == "Underfit"}
    assert advice == "train more layers (strategy=full, without learning_rate)."


def test_short_gradual_unfreezing_is_advised_more_epochs() -> None:
    (advice,) = {
        finding.advice for finding in curves(make_job("gradual", epochs="1").setup) if finding.rule == "Underfit"
    }
    assert advice == "set epochs=5 to unfreeze all layers."


def test_advice_names_the_hyperparameter_that_sets_the_learning_rate() -> None:
    job = make_job("feature_extraction", learning_rate="0.001", head_learning_rate="0.03")
    (advice,) = {finding.advice for finding in curves(job.setup) if finding.rule == "Oscillating"}
    assert advice == "lower head_learning_rate to a third (head_learning_rate=0.01)."


def exported(scores: list[float], losses: list[float], patience: int) -> int:
    """The epoch whose weights a job with early stopping exports, by the training loop's own rule."""
    best, improved, reference, lowest = -1, -1, float("-inf"), float("inf")
    for epoch, (score, loss) in enumerate(zip(scores, losses, strict=True)):
        if score > reference or (score <= 0 and loss < lowest):
            improved, reference = epoch, score
        if best < 0 or (score, -loss) > (scores[best], -losses[best]):
            best, lowest = epoch, loss
        if epoch - improved >= patience:
            break
    return best


def test_advised_patience_exports_the_best_epoch() -> None:
    values = (0.0, 0.25, 0.5)
    for scores in itertools.product(values, repeat=7):
        losses = [1.0, 0.9, 0.8, 2.0, 0.7, 0.6, 3.0]
        rows_by_epoch = rows(Setup(), [1.0] * 7, losses, list(scores))
        patience = patience_for_best(rows_by_epoch, "accuracy")
        best = max(range(7), key=lambda at: (scores[at], -losses[at]))
        assert exported(list(scores), losses, patience) == best
        assert patience == 3 or exported(list(scores), losses, patience - 1) != best


def test_advised_patience_allows_a_late_recovery() -> None:
    losses = [2.0, 6.07, 3.59, 5.0, 5.5, 4.0, 3.0, 2.0, 1.0, 1.5, 1.6]
    scores = [0.3, 0.4, 0.62, 0.3, 0.3, 0.4, 0.5, 0.6, 0.71, 0.5, 0.4]
    training_curves = TrainingCurves(rows(Setup(), [1.0 - 0.09 * at for at in range(11)], losses, scores), 4, 500)
    (finding,) = check_curves(training_curves, {"Overfit": DEFAULTS["Overfit"]})
    assert finding.advice == "set early_stopping_patience=6 to end training after the best epoch, which is exported."
