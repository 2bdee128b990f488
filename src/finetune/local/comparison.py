"""Collects the results of jobs for a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.local.results import score_of_metrics
from finetune.local.run_folder import RUNS
from finetune.monitoring.progress import format_duration
from finetune.monitoring.report.comparison import ComparedJob
from finetune.monitoring.report.verdict import evaluated_part

_REPORT = "report.json"
_PLACES = (Path("output/data"), Path(), Path("opt-ml/output/data"))
"""Folders of the report below a job, the unpacked `output.tar.gz` of a job, and a simulated job."""


def find_results(root: Path) -> Path:
    """Return the folder with the report of a job.

    Args:
        root: folder of a job, or of the contents of its `output.tar.gz`.

    Raises:
        UserError: there is no report.
    """
    for place in _PLACES:
        if (root / place / _REPORT).is_file():
            return root / place
    raise UserError(f"{root} contains no {_REPORT}: give the folder of a job that has ended.")


def find_runs(folder: Path = RUNS) -> list[Path]:
    """Return the jobs below a folder that have a report.

    Raises:
        UserError: there is none.
    """
    runs = sorted(path for path in folder.glob("*") if any((path / place / _REPORT).is_file() for place in _PLACES))
    if not runs:
        raise UserError(f"{folder} contains no job with a report: give the folders of jobs.")
    return runs


def compare_runs(roots: Sequence[Path]) -> list[ComparedJob]:
    """Return the jobs, the highest score first; jobs that were not evaluated come last.

    Raises:
        UserError: a folder contains no report, or one that cannot be read.
    """
    reports = {_name(root, roots): _read(find_results(root) / _REPORT) for root in roots}
    ranked = sorted(reports.items(), key=lambda item: -_rank(item[1]))
    return [_job(name, report) for name, report in ranked]


def _name(root: Path, roots: Sequence[Path]) -> str:
    names = [path.absolute().name for path in roots]
    name = root.absolute().name
    return name if names.count(name) == 1 else str(root)


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(report, dict) or not {"parts", "job", "history", "asked"} <= report.keys():
        raise UserError(f"{path} is not the report of a job.")
    return report


def _rank(report: Mapping[str, Any]) -> float:
    score = score_of_metrics(report["parts"])
    return -math.inf if score is None else score.value


def _job(name: str, report: Mapping[str, Any]) -> ComparedJob:
    job, effective = report["job"], report["asked"].get("effective", {})
    settings = {"model_name": job.get("model_name"), "strategy": job.get("strategy"), **effective}
    settings.pop("name", None)  # the strategy again
    return ComparedJob(
        name,
        _results(report),
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()},
        report["history"],
    )


def _results(report: Mapping[str, Any]) -> dict[str, str]:
    results: dict[str, str] = {}
    score = score_of_metrics(report["parts"])
    part, metrics = evaluated_part(report)
    if score is not None and metrics is not None:
        results[score.name] = f"{score.value:.4f}"
        if score.interval is not None:
            results["95% interval"] = f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
        results["macro F1"] = f"{metrics['macro']['f1']:.4f}"
        results["loss"] = f"{metrics['loss']:.4f}"
        results["records"] = f"{score.records:,} of {part}"
    job = report["job"]
    if job.get("epochs") is not None:
        results["epochs trained"] = f"{job['epochs']:,}"
    if not job.get("finished"):
        results["state"] = "failed" if report.get("failure") else "stopped"
    cost = report.get("cost", {})
    if isinstance(cost.get("seconds"), int | float):
        results["duration"] = format_duration(cost["seconds"])
    if isinstance(cost.get("price"), int | float):
        results["cost"] = f"{cost['price']:.4f}"
    results["device"] = str(report.get("plan", {}).get("facts", {}).get("device", ""))
    return results
