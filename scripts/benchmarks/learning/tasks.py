"""Classification tasks with a fixed test set, and training sets of several sizes drawn by seed."""

from __future__ import annotations

import csv
import hashlib
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Literal

from benchmarks.learning import records
from benchmarks.learning.records import Records

SIZES = (5, 20, 100)
"""Training records per class; fewer where a class, or the limit of the task, has fewer."""
_TEST_SHARE = 0.4
"""Share of a class that may be tested on."""


@dataclass(frozen=True, slots=True)
class Task:
    """A classification task.

    Attributes:
        name: Name in tables.
        kind: What is classified.
        read: Reads all records from packages in a cache folder, by class.
        classes: Number of classes.
        max_train: Most training records.
        max_test: Most test records.
        natural: Whether training and test sets keep the proportions of the classes; scored by macro F1.
    """

    name: str
    kind: Literal["images", "texts"]
    read: Callable[[Path], Records]
    classes: int
    max_train: int
    max_test: int
    natural: bool = False


TASKS = (
    Task("emoji (Google)", "images", records.google_emoji, 9, 500, 400),
    Task("emoji (Twitter)", "images", records.twitter_emoji, 9, 500, 400),
    Task("clip art", "images", records.clip_art, 11, 500, 400),
    Task("stamps", "images", records.stamps, 9, 500, 400),
    Task("digits", "images", records.digits, 10, 500, 400),
    Task("spam", "texts", records.spam, 2, 2000, 500, natural=True),
    Task("WordNet glosses", "texts", records.glosses, 45, 4500, 900),
    Task("docstrings", "texts", records.docstrings, 16, 2000, 500),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Training and test set of a task.

    Attributes:
        train: Folder with a folder of images per class, or a CSV table with the columns `text` and `label`.
        test: The same for testing.
        labels: Labels of the training records.
        truth: Labels of the test records, in the order of their names or rows.
    """

    train: Path
    test: Path
    labels: Sequence[str]
    truth: Sequence[str]


def draw(task: Task, size: int, seed: int, cache: Path) -> Sample:
    """Write a training set, and the test set of its task, if they are not there yet."""
    folder = cache / "tasks" / task.name.replace(" ", "-").replace("(", "").replace(")", "").lower()
    by_class = _shuffled(task, cache / "packages")
    test = {label: names[: _count(task, by_class, label)] for label, names in by_class.items()}
    rest = {label: names[len(test[label]) :] for label, names in by_class.items()}
    drawn = _drawn(task, rest, size, seed)
    return Sample(
        _write(task, drawn, folder / f"train-{size}-{seed}"),
        _write(task, test, folder / "test"),
        [label for label, _ in _rows(drawn)],
        [label for label, _ in _rows(test)],
    )


@once
def _shuffled(task: Task, packages: Path) -> Records:
    """The records of each class in the order of the digests of their contents; without those of several classes."""
    by_class = task.read(packages)
    classes: dict[bytes, set[str]] = defaultdict(set)
    found: dict[bytes, str] = {}
    for label, contents in by_class.items():
        for record in contents:
            content = Path(record).read_bytes() if task.kind == "images" else record.encode()
            digest = hashlib.sha256(content).digest()
            classes[digest].add(label)
            found[digest] = record
    ordered: dict[str, list[str]] = {label: [] for label in sorted(by_class)}
    for digest in sorted(found):
        if len(classes[digest]) == 1:
            ordered[next(iter(classes[digest]))].append(found[digest])
    return ordered


def _count(task: Task, by_class: Mapping[str, Sequence[str]], label: str) -> int:
    available, total = len(by_class[label]), sum(map(len, by_class.values()))
    share = available / total if task.natural else 1 / len(by_class)
    return min(int(available * _TEST_SHARE), round(task.max_test * share))


def _drawn(task: Task, rest: Mapping[str, Sequence[str]], size: int, seed: int) -> dict[str, list[str]]:
    count = min(size * len(rest), task.max_train)
    total = sum(map(len, rest.values()))
    drawn = {}
    for label, contents in rest.items():
        share = len(contents) / total if task.natural else 1 / len(rest)
        number = min(len(contents), max(1, round(count * share)))
        drawn[label] = random.Random(f"{task.name} {label} {size} {seed}").sample(list(contents), number)  # noqa: S311
    return drawn


def _rows(by_class: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(label, record) for label in sorted(by_class) for record in by_class[label]]


def _write(task: Task, by_class: Mapping[str, Sequence[str]], folder: Path) -> Path:
    """Write records into class folders, or into a table; images keep the order of their rows by name."""
    target = folder if task.kind == "images" else folder / "records.csv"
    if folder.exists():
        return target
    scratch = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    rows = _rows(by_class)
    if task.kind == "texts":
        with (scratch / "records.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((text, label) for label, text in rows)
    for number, (label, image) in enumerate(rows if task.kind == "images" else ()):
        (scratch / label).mkdir(exist_ok=True)
        (scratch / label / f"{number:05}.png").hardlink_to(image)
    scratch.rename(folder)
    return target
