"""Collects the results of the job in `report.json`, and renders `report.html` from it."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import finetune
from finetune.config.hyperparameters import JobSpec
from finetune.config.rules import rules_of
from finetune.data.readers.image_folder import other_files_of
from finetune.evaluation.data_checks import most_confident_mistakes, readable
from finetune.evaluation.predict import EvaluationResult
from finetune.features.plan import CachePlan
from finetune.job.inputs import Inputs, class_counts
from finetune.job.loaders import Loaders
from finetune.job.plan_summary import expected_input, group_summaries, idle_remarks
from finetune.job.request import Request
from finetune.job.rules import training_counts
from finetune.models.backbone import Backbone
from finetune.monitoring.json_numbers import finite
from finetune.monitoring.report import page, verdict
from finetune.runtime.atomic_files import write_whole
from finetune.runtime.precision import Numerics
from finetune.strategies.plan import Plan
from finetune.training.run_history import RunHistory, process_age
from finetune.training.schedule import Schedule

logger = logging.getLogger(__name__)

_MOST_RATES = 120
_LIBRARIES = ("torch", "torchvision", "transformers", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results shown in the report.

    Attributes:
        metrics: content of `metrics.json`.
        evaluated: predictions by part.
        account: run history over all starts of the job.
        drift: relative change of the weights, by layer group.
        schedule: learning rate schedule; `None` if nothing was trained.
    """

    metrics: Mapping[str, object]
    evaluated: Mapping[str, EvaluationResult]
    account: RunHistory
    drift: Mapping[str, float]
    schedule: Schedule | None


@dataclass(frozen=True, slots=True)
class Subject:
    """The request and the objects built from it."""

    request: Request
    inputs: Inputs
    backbone: Backbone
    plan: Plan
    loaders: Loaders
    numerics: Numerics

    @property
    def spec(self) -> JobSpec:
        """The checked hyperparameters."""
        return self.request.spec

    @property
    def frozen(self) -> CachePlan:
        """Caching decisions for frozen layers."""
        return CachePlan(self.backbone, self.plan, self.spec, self.numerics)


def write_report(folder: Path, subject: Subject, found: Outcome) -> None:
    """Write `report.json`, and `report.html` rendered from it.

    Raises:
        OSError: the folder cannot be written.
    """
    report = finite(build_report(subject, found))
    judgement = verdict(report)
    report["verdict"] = judgement.as_json()
    said = " ".join((f"{judgement.headline}.", *judgement.reasons))
    logger.log(logging.INFO if judgement.kind == "good" else logging.WARNING, "Verdict: %s", said)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", json.dumps(report, indent=1, default=str, allow_nan=False) + "\n")
    write_whole(folder / "report.html", page(report))
    logger.info("The report is in %s", folder / "report.html")


def build_report(subject: Subject, found: Outcome) -> dict[str, object]:
    """Content of the report, as JSON values."""
    parts = subject.inputs.parts()
    job = found.metrics["job"]
    assert isinstance(job, dict)  # noqa: S101  # made by `job_summary`
    judged = next((name for name in ("test", "validation", "train") if name in found.evaluated), None)
    wrong: dict[str, object] = {"part": "", "of": 0, "count": 0, "records": []}
    return {
        "title": f"{subject.backbone.name} on {len(subject.inputs.labels)} classes",
        "failure": found.metrics.get("failure"),
        "forgetting": found.metrics.get("forgetting"),
        "job": {name: value for name, value in job.items() if name != "history"},
        "history": job.get("history", []),
        "asked": {
            "hyperparameters": dict(subject.request.files.hyperparameters),
            "notes": [*subject.spec.notes, *idle_remarks(subject.request, subject.inputs, subject.frozen)],
            "effective": _effective(subject.spec),
        },
        "plan": {"facts": _facts(subject), "groups": _groups(subject, found.drift)},
        "records": {name: len(part.indices) for name, part in parts.items()},
        "classes": {name: class_counts(part, subject.inputs.labels) for name, part in parts.items()},
        "training_counts": training_counts(subject.inputs) if subject.spec.strategy.name != "evaluate" else {},
        "parts": {name: metrics for name, metrics in found.metrics.items() if name in found.evaluated},
        "wrong": most_confident_mistakes(judged, found.evaluated[judged]) if judged else wrong,
        "duplicates": readable(parts),
        "bad_records": {
            name: listing for name, one in subject.loaders.bad_records.items() if (listing := one.listing())
        },
        "left_out_files": {
            part.reader.channel: files for part in parts.values() if (files := other_files_of(part.reader))
        },
        "rates": _rates(subject.plan, found.schedule, job.get("steps", 0)),
        "rules": list(rules_of(subject.spec.observe.rules)),
        "findings": found.metrics["findings"],
        "machine_findings": found.account.machine_findings,
        "time": _time(found.account, subject, job),
        "interruptions": found.account.as_json(),
        "cost": _cost(found.account, subject.spec.observe.price_per_hour),
        "versions": _versions(),
    }


def _effective(spec: JobSpec) -> dict[str, object]:
    sections = (
        spec.data,
        spec.model,
        spec.strategy,
        spec.optimisation,
        spec.run,
        spec.checkpoint,
        spec.features,
        spec.observe,
    )
    return {name: value for section in sections for name, value in section.model_dump().items()}


def _facts(subject: Subject) -> dict[str, str]:
    weights, spec = subject.backbone.weights, subject.spec
    return {
        "task": subject.inputs.task + (", several labels per record" if subject.inputs.labels.multi_label else ""),
        "network": f"{subject.backbone.name}, {expected_input(subject.backbone)}",
        "weights": weights.words,
        "strategy": spec.strategy.name,
        "optimizer": f"{spec.optimisation.optimizer}, {spec.optimisation.lr_schedule} schedule",
        "batch": f"{spec.optimisation.batch_size} x {spec.optimisation.gradient_accumulation_steps}",
        "device": f"{subject.numerics.device}, {subject.numerics.name}",
        "validation": "kept from train"
        if subject.inputs.split
        else "its own channel"
        if subject.inputs.validation or "validation" in subject.inputs.streams
        else "none",
    }


def _groups(subject: Subject, drift: Mapping[str, float]) -> list[dict[str, object]]:
    return [
        {**asdict(group), "drift": drift.get(group.name)} for group in group_summaries(subject.backbone, subject.plan)
    ]


def _rates(plan: Plan, schedule: Schedule | None, steps: object) -> dict[str, object]:
    if schedule is None or not isinstance(steps, int) or not steps:
        return {"steps": [], "groups": {}}
    shown = sorted({round(index * (steps - 1) / (_MOST_RATES - 1)) for index in range(_MOST_RATES)})
    first = {name: phase.first_epoch for phase in reversed(plan.phases) for name in phase.trainable}
    curves = {
        name: [rate * schedule(step) if step >= first[name] * schedule.steps_per_epoch else None for step in shown]
        for name, rate in plan.rates.items()
    }
    return {"steps": shown, "groups": curves}


def _time(account: RunHistory, subject: Subject, job: Mapping[str, object]) -> dict[str, object]:
    training = dict(account.parts)
    total = max(account.run_seconds, process_age())
    # Reading checkpoints counts as part of the start.
    parts = {"start": account.start_seconds, **training}
    parts["rest"] = max(0.0, total - sum(parts.values()))
    busy = sum(value for name, value in training.items() if name not in {"evaluate", "save"})
    train = subject.inputs.train
    epochs = job.get("epochs", 0)
    done = len(train.indices) * epochs if train and isinstance(epochs, int) else 0
    return {"parts": parts, "records_per_second": done / busy if busy else None}


def _cost(account: RunHistory, price: float | None) -> dict[str, object]:
    total = max(account.run_seconds, process_age())
    return {
        "seconds": round(total, 1),
        "price_per_hour": price,
        "price": None if price is None else total / 3600 * price,
    }


def _versions() -> dict[str, str]:
    versions = {"finetune": finetune.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
