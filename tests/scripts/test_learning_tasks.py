"""Training and test sets of the learning benchmark are disjoint, and the same in every run."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from benchmarks.learning.tasks import Task, draw

SIZES = {"cat": 60, "dog": 40, "rare": 4}


def task_of(*, natural: bool = False) -> Task:
    found = {label: [f"{label} {number}" for number in range(count)] for label, count in SIZES.items()}
    found["cat"].append("seen in both")
    found["dog"].append("seen in both")
    return Task("animals", "texts", lambda cache: found, 3, 60, 30, natural)


def texts_of(table: Path) -> list[str]:
    with table.open(newline="", encoding="utf-8") as file:
        return [row["text"] for row in csv.DictReader(file)]


def test_no_record_is_in_both_sets(tmp_path: Path) -> None:
    sample = draw(task_of(), 20, 0, tmp_path)
    train, test = texts_of(sample.train), texts_of(sample.test)
    assert not set(train) & set(test)
    assert "seen in both" not in {*train, *test}
    assert Counter(sample.labels) == {"cat": 20, "dog": 20, "rare": 3}
    assert Counter(sample.truth) == {"cat": 10, "dog": 10, "rare": 1}
    assert [text.split()[0] for text in test] == list(sample.truth)


def test_seeds_draw_other_training_sets_for_the_same_test_set(tmp_path: Path) -> None:
    first, second = draw(task_of(), 5, 0, tmp_path / "a"), draw(task_of(), 5, 1, tmp_path / "a")
    again = draw(task_of(), 5, 0, tmp_path / "b")
    assert texts_of(first.train) == texts_of(again.train) != texts_of(second.train)
    assert texts_of(first.test) == texts_of(second.test) == texts_of(again.test)


def test_natural_proportions_are_kept(tmp_path: Path) -> None:
    sample = draw(task_of(natural=True), 10, 0, tmp_path)
    assert Counter(sample.labels) == {"cat": 17, "dog": 11, "rare": 1}
