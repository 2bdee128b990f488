"""Debugger rules of a job: their setup, their observer, and findings about the final evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from finetune.config.rules import parse_rules
from finetune.job.choices.best_metric import choose_best_metric
from finetune.job.choices.recipes import balances_classes
from finetune.job.data.inputs import Inputs, training_counts
from finetune.job.prepare import PreparedJob, structure_of
from finetune.models.heads import DropoutLinear
from finetune.monitoring.rules.chance import check_chance_level
from finetune.monitoring.rules.curves import LEARNED_SHARE, check_rare_classes
from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.setup import Setup, guess_loss
from finetune.monitoring.rules.symptoms import check_evaluation
from finetune.monitoring.score import score_of
from finetune.strategies.presets import learning_rates_in_effect
from finetune.strategies.usual_rates import usual_learning_rates
from finetune.training.observers.rules import Findings, RuleObserver
from finetune.training.saved_state.state import EpochMetrics
from finetune.training.trainer import Training


def build_setup(job: PreparedJob) -> Setup:
    """The hyperparameters in effect and properties of the job, as input of the rules."""
    spec, inputs, expects = job.spec, job.inputs, job.backbone.expects
    optimization = spec.optimization
    structure, last = structure_of(job.backbone, inputs.task_name), job.plan.phase(optimization.epochs - 1)
    varies = any(job.cache_plan.augments(phase) for phase in job.plan.phases if phase.trainable)
    return Setup(
        strategy=spec.strategy.name,
        epochs=optimization.epochs,
        learning_rates=learning_rates_in_effect(spec.strategy, optimization, structure),
        learning_rates_set=optimization.learning_rate is not None or optimization.head_learning_rate is not None,
        usual_rates=(() if job.head_solver.solves else usual_learning_rates(spec.strategy, optimization, structure)),
        guess_loss=guess_loss(inputs.task.outputs, multi_label=inputs.labels.multi_label),
        trains_all_layers=set(last.trainable) == set(job.plan.groups),
        is_image_task=expects.modality == "image",
        multi_label=inputs.labels.multi_label,
        has_validation=inputs.validation is not None or "validation" in inputs.streams,
        is_piped="train" in inputs.streams,
        augmentation=spec.data.augmentation if varies and expects.modality == "image" else "none",
        has_dropout=_has_dropout(job.backbone.module),
        patience=optimization.early_stopping_patience,
        best_metric=choose_best_metric(spec, inputs),
        has_class_weights=balances_classes(spec),
        clip_norm=optimization.gradient_clip_norm,
        weight_decay=optimization.weight_decay,
        batch_size=optimization.batch_size,
        workers=spec.run.workers,
        precision=job.numerics.name,
        max_length=expects.max_length,
        solves_head=job.head_solver.solves,
    )


def constant_prediction_score(inputs: Inputs, counts: dict[str, int]) -> float:
    """Score of the best constant prediction on the training records, as far as their classes are counted."""
    if not any(counts.values()):
        return 1 / max(1, inputs.task.outputs)
    stream = inputs.streams.get("train")
    records = stream.count if stream is not None else len(inputs.train.indices) if inputs.train else None
    return inputs.task.constant_prediction_score(tuple(counts.values()), records)


def _has_dropout(module: nn.Module) -> bool:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Dropout | DropoutLinear)]
    return any(layer.p > 0 for layer in layers)


def build_rule_observer(job: PreparedJob, setup: Setup, training: Training, findings: Findings) -> RuleObserver:
    """Build the observer that applies the selected rules to the training."""
    inputs, counts = job.inputs, training_counts(job.inputs)
    return RuleObserver(
        probe=training.stepper.probe,
        timing=training.stepper.timing,
        rules=parse_rules(job.spec.observe.rules),
        findings=findings,
        steps_per_epoch=training.schedule.steps_per_epoch,
        validation_records=len(inputs.validation.indices) if inputs.validation else 0,
        class_counts=counts,
        baseline_score=constant_prediction_score(inputs, counts),
        setup=setup,
        processes=training.watch.processes,
    )


def findings_about_evaluation(
    job: PreparedJob, metrics: Mapping[str, object], history: Sequence[EpochMetrics]
) -> list[Finding]:
    """Findings about the final evaluation: rare classes misclassified, classes never predicted, worse than a guess.

    Args:
        job: the evaluated job.
        metrics: by part.
        history: metrics of every epoch; empty if nothing was trained.
    """
    rules = parse_rules(job.spec.observe.rules)
    part = next((name for name in ("test", "validation", "train") if name in metrics), None)
    measured = metrics.get(part or "")
    if not rules or part is None or not isinstance(measured, dict):
        return []
    setup = build_setup(job)
    counts = training_counts(job.inputs) if setup.trains else {}
    recalls = {row["label"]: row["recall"] for row in measured["per_class"] if row["recall"] is not None}
    learned = None
    if history:
        guess = constant_prediction_score(job.inputs, counts)
        learned = score_of(history[-1], "train") > guess + LEARNED_SHARE * (1 - guess)
    return [
        *check_rare_classes(recalls, counts, rules, setup),
        *check_chance_level(part, measured, rules, setup, learned=learned),
        *check_evaluation(part, measured, setup, learned=learned),
    ]
