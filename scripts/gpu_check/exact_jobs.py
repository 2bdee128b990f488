"""Compares the weights of whole jobs bit by bit: interrupted and resumed, repeated, and without a feature cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from gpu_check.determinism import new_process
from gpu_check.jobs import EPOCH_METRICS, FIRST_STEP, JobRun, new_job, run_job
from gpu_check.results import Results, Table
from gpu_check.scale import Scale
from gpu_check.steps import EQUAL_BITS
from gpu_check.tasks import Task, image_task, text_task

TABLE = Table(
    "Exactness of whole jobs",
    "Weights of a job that gets a SIGTERM after its first step, is resumed, gets another one after its next epoch and"
    " is resumed again; and of a job that computes frozen layers again in every epoch (`cache_size_gb=0`). Each is"
    " compared with one uninterrupted job in the default precision and with PyTorch's default algorithms. If the first"
    " comparison differs, the uninterrupted job is repeated, and both jobs run again with"
    " `torch.use_deterministic_algorithms(True)`.",
    ("model, strategy", "interrupted twice and resumed", "without cache", "repeated", "deterministic algorithms"),
)
STRATEGIES: Mapping[str, Mapping[str, str]] = {
    "feature_extraction": {"strategy": "feature_extraction"},
    "partial": {"strategy": "partial", "unfrozen_groups": "1"},
    "full": {"strategy": "full"},
}


def check(scale: Scale, folder: Path, results: Results) -> None:
    """Add a row for each model and strategy."""
    tasks = (
        image_task(folder / "images", scale.exact_images, scale),
        text_task(folder / "texts", scale.exact_texts, scale),
    )
    for name in scale.exact_strategies:
        for task in tasks:
            label = f"{task.name}, `{name}`"
            try:
                results.add(TABLE, label, *_compare(folder / f"{task.kind}-{name}", task, name, scale))
            except Exception as error:  # noqa: BLE001 - the other rows are independent
                results.add_error(TABLE, label, error)


def _compare(folder: Path, task: Task, strategy: str, scale: Scale) -> tuple[str, str, str, str]:
    options = {**STRATEGIES[strategy], "epochs": str(scale.epochs), "batch_size": str(scale.exact_batch), "seed": "3"}
    if task.kind == "images":
        options["image_size"] = str(scale.image_size)
    reference = run_job(new_job(folder / "uninterrupted", task, options))
    resumed = _resumed_difference(folder / "interrupted", task, options, reference)
    without_cache = "nothing is frozen"
    if strategy != "full":
        job = run_job(new_job(folder / "without-cache", task, {**options, "cache_size_gb": "0"}))
        without_cache = _difference(reference, job)
    if resumed == EQUAL_BITS:
        return resumed, without_cache, "not needed", "not needed"
    repeated = _difference(reference, run_job(new_job(folder / "repeated", task, options)))
    with new_process(deterministic=True) as pool:
        deterministic = pool.submit(_compare_resumed, folder / "deterministic", task, options).result()
    return resumed, without_cache, repeated, deterministic


def _compare_resumed(folder: Path, task: Task, options: Mapping[str, str]) -> str:
    reference = run_job(new_job(folder / "uninterrupted", task, options))
    return _resumed_difference(folder / "interrupted", task, options, reference)


def _resumed_difference(folder: Path, task: Task, options: Mapping[str, str], reference: JobRun) -> str:
    """Compare an interrupted and resumed job with the uninterrupted one; says so if it was not interrupted twice."""
    job = new_job(folder, task, options)
    stops = 0
    for line in (FIRST_STEP, EPOCH_METRICS):
        stops += run_job(job, terminate_at=line).contains("Stopped on request")
    resumed = run_job(job)
    note = "" if stops == 2 and resumed.contains("Resumed from checkpoint") else f" (interrupted {stops} times)"
    return _difference(reference, resumed) + note


def _difference(first: JobRun, second: JobRun) -> str:
    """Compare the weights of two jobs: equal bits, or the largest difference."""
    if first.weights.read_bytes() == second.weights.read_bytes():
        return EQUAL_BITS
    weights, others = load_file(first.weights), load_file(second.weights)
    if weights.keys() != others.keys():
        return "different tensors"
    differing = [name for name, value in weights.items() if not torch.equal(value, others[name])]
    if not differing:
        return "equal values, different files"
    largest = max(float((weights[name].double() - others[name].double()).abs().max()) for name in differing)
    return f"different: {len(differing)} of {len(weights)} tensors, by at most {largest:.1e}"
