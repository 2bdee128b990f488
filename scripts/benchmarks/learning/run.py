"""Computes missing results, and prints the tables of all."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks import machine
from benchmarks.learning.cells import Key, Outcome, compute, kept, possible
from benchmarks.learning.methods import METHODS, Method
from benchmarks.learning.scores import ranks
from benchmarks.learning.tasks import SIZES, TASKS, Task
from benchmarks.sides import ROOT
from benchmarks.table import begin, row, say

CACHE = ROOT / ".cache" / "benchmarks" / "learning"
_QUICK_TASKS = ("docstrings",)
_QUICK_METHODS = ("finetune, head",)
SEEDS = 3
Results = Mapping[Key, Outcome]


def main(tasks: Sequence[str], methods: Sequence[str], minutes: float, *, quick: bool) -> None:
    """Compute results until the time is up, then print what there is.

    Args:
        tasks: Names of tasks; all if empty.
        methods: Names of methods; all if empty.
        minutes: Time after which no result is begun.
        quick: Whether to compute one small task without other tools.
    """
    machine.keep_to_cores()
    chosen_tasks = [one for one in TASKS if one.name in (tasks or (_QUICK_TASKS if quick else one.name))]
    chosen_methods = [one for one in METHODS if one.name in (methods or (_QUICK_METHODS if quick else one.name))]
    sizes, seeds = (SIZES[:1], 1) if quick else (SIZES, SEEDS)
    results: dict[Key, Outcome] = {}
    end = time.monotonic() + 60 * minutes
    for key in possible(chosen_tasks, sizes, seeds, chosen_methods):
        outcome = kept(key, CACHE)
        if outcome is None and time.monotonic() < end:
            outcome = compute(key, CACHE)
            shown = "failed" if outcome.score is None else f"{outcome.score:.3f}"
            cell = f"{key.task.name}, {key.size}, seed {key.seed}, {key.method.name}"
            say(f"{cell}: {shown}, {outcome.seconds:.0f} CPU s")
        if outcome is not None:
            results[key] = outcome
    print_tables(results, chosen_tasks, sizes, chosen_methods)


def print_tables(results: Results, tasks: Sequence[Task], sizes: Sequence[int], methods: Sequence[Method]) -> None:
    """Print the mean score of each method for each task and size, and a comparison over all of them."""
    begin("Accuracy with default settings", ("task", "records per class", *(method.name for method in methods)))
    means: dict[tuple[str, int], dict[str, float]] = {}
    for task in tasks:
        for size in sizes:
            scores = _scores(results, task, size)
            means[task.name, size] = {name: statistics.mean(values) for name, values in scores.items()}
            if scores:
                row((task.name, f"{size}", *(_shown(scores.get(method.name)) for method in methods)))
    say(
        "\nMean over seeds (and its standard error) of the accuracy on held-out records, or of macro F1 for tasks with"
        " natural proportions. All tools begin with the same pretrained weights and get the same training records.\n"
    )
    begin("Over all tasks", ("method", "mean rank", "largest gap to the best", "CPU seconds, total", "failed"))
    for method in methods:
        _summarize(results, method, means)


def _scores(results: Results, task: Task, size: int) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = defaultdict(list)
    for key, outcome in results.items():
        if (key.task.name, key.size) == (task.name, size) and outcome.score is not None:
            scores[key.method.name].append(outcome.score)
    return scores


def _shown(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({statistics.stdev(values) / len(values) ** 0.5:.3f})"


def _summarize(results: Results, method: Method, means: Mapping[tuple[str, int], Mapping[str, float]]) -> None:
    own = [scores for scores in means.values() if method.name in scores]
    outcomes = [outcome for key, outcome in results.items() if key.method.name == method.name]
    if not own:
        row((method.name, "", "", "", f"{len(outcomes)}"))
        return
    mean_rank = statistics.mean(ranks(scores)[method.name] for scores in own)
    gap = max(max(scores.values()) - scores[method.name] for scores in own)
    seconds = sum(outcome.seconds for outcome in outcomes)
    failed = sum(outcome.score is None for outcome in outcomes)
    row((method.name, f"{mean_rank:.2f}", f"{gap:.3f}", f"{seconds:,.0f}", f"{failed}"))
