"""Results by task, size, seed and method, each kept in a file that is named by its inputs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

from benchmarks.learning import weights
from benchmarks.learning.methods import IMAGE_SIZE, Method, MethodFailedError
from benchmarks.learning.peers.cell import Cell
from benchmarks.learning.scores import score
from benchmarks.learning.tasks import Task, draw
from benchmarks.sides import ROOT

_OUR_FILES = ("src/finetune/**/*.py", "container/requirements.txt")


@dataclass(frozen=True, slots=True)
class Key:
    """Inputs of a result.

    Attributes:
        task: The task.
        size: Training records per class.
        seed: Seed of the training set and of the method.
        method: The tool.
    """

    task: Task
    size: int
    seed: int
    method: Method


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a method reached.

    Attributes:
        score: Accuracy, or macro F1 for tasks with natural proportions; `None` after a failure.
        seconds: Processor time of all processes.
        records: Training records.
        failure: End of the output of a method that failed.
        revision: Digest of our source for our jobs.
    """

    score: float | None
    seconds: float
    records: int
    failure: str = ""
    revision: str = ""


def possible(tasks: Sequence[Task], sizes: Sequence[int], seeds: int, methods: Sequence[Method]) -> Iterator[Key]:
    """All keys, one seed after the other, so that an aborted run has a result for every task."""
    for seed in range(seeds):
        for size in sizes:
            for task in tasks:
                for method in methods:
                    if task.kind in method.kinds and size * task.classes <= method.max_records:
                        yield Key(task, size, seed, method)


def kept(key: Key, cache: Path) -> Outcome | None:
    """The result of an earlier run, if there is one."""
    path = _path(key, cache)
    return Outcome(**json.loads(path.read_text("utf-8"))) if path.exists() else None


def compute(key: Key, cache: Path) -> Outcome:
    """Run a method and keep its result, also a failure."""
    sample = draw(key.task, key.size, key.seed, cache)
    model = weights.image_model(cache) if key.task.kind == "images" else weights.text_model()
    cell = Cell(str(sample.train), str(sample.test), str(model), key.seed, IMAGE_SIZE, "", "")
    records = len(sample.labels)
    scratch = cache / "scratch"
    revision = _revision() if key.method.is_ours else ""
    try:
        result = key.method.run(key.task, cell, scratch)
        value = score(sample.truth, result.predictions, macro_f1=key.task.natural)
        outcome = Outcome(value, result.seconds, records, revision=revision)
    except MethodFailedError as error:
        outcome = Outcome(None, 0.0, records, str(error), revision)
    shutil.rmtree(scratch, ignore_errors=True)
    path = _path(key, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(outcome), indent=1), "utf-8")
    return outcome


def _path(key: Key, cache: Path) -> Path:
    inputs: dict[str, Any] = {
        "task": key.task.name,
        "sizes": [key.size, key.task.max_train, key.task.max_test, IMAGE_SIZE],
        "seed": key.seed,
        "method": [key.method.name, dict(key.method.hyperparameters)],
        "code": _revision() if key.method.is_ours else _peer_digest(key.method),
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    return cache / "results" / f"{digest}.json"


@once
def _revision() -> str:
    """Digest of the sources of our jobs."""
    digest = hashlib.sha256()
    for pattern in _OUR_FILES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _peer_digest(method: Method) -> str:
    lock = ROOT / "scripts" / "environments" / f"{method.environment}.txt"
    script = ROOT / "scripts" / "benchmarks" / "learning" / "peers" / f"{method.module}.py"
    return hashlib.sha256(lock.read_bytes() + script.read_bytes()).hexdigest()
