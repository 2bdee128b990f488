"""The card of confusions: never empty, and readable with many or long class names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from finetune.evaluation.metrics import classification_metrics
from finetune.observe.report.confusion import confusion, headings
from finetune.observe.report.quality import classes
from finetune.observe.report.records import balance
from reports import example


def report(names: tuple[str, ...], *, mistakes: bool = True) -> dict[str, Any]:
    truth = np.repeat(np.arange(len(names)), 3)
    told = truth.copy()
    if mistakes:
        told[::3] = (told[::3] + 1) % len(names)
    probabilities = np.full((len(truth), len(names)), 0.1)
    probabilities[np.arange(len(truth)), told] = 0.8
    found = classification_metrics(truth, probabilities, names, multi_label=False)
    counts = dict.fromkeys(names, 3)
    return example() | {"parts": {"test": found}, "classes": {"train": counts}, "records": {"train": len(truth)}}


def drawn(names: tuple[str, ...], *, mistakes: bool = True) -> str:
    card = confusion(report(names, mistakes=mistakes))
    assert card is not None
    return card


def characters(count: int) -> tuple[str, ...]:
    return tuple(f"U+00{number:02X}" for number in range(0xC0, 0xC0 + count))


def column_headings(card: str) -> list[str]:
    return re.findall(r'<th scope="col" title="[^"]*"><span>(.*?)</span></th>', card)


def test_headings_that_share_a_beginning_are_shown_by_what_differs() -> None:
    card = drawn(characters(24))
    assert column_headings(card) == [f"…{number:02X}" for number in range(0xC0, 0xC0 + 24)]
    assert "Every class begins with U+00" in card
    assert 'title="U+00C7"' in card


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog", "bird"),
        ("a", "ab", "abc", "abcd"),
        tuple(f"a very long class name that ends in {number}" for number in range(12)),
        tuple(f"{number} is the beginning of a very long class name" for number in range(12)),
        ("x" * 40, "x" * 41, "x" * 39 + "y", "other"),
        ("first_group_of_things_a", "first_group_of_things_b", "second_group_of_things_a", "second_group_of_things_b"),
        ("…b", "b", "1: b"),
        ("abc" + "d" * 20 + "e" + "f" * 20, "abc" + "d" * 20 + "e" + "f" * 20 + "g"),
    ],
)
def test_headings_are_short_and_no_two_are_alike(names: tuple[str, ...]) -> None:
    short = headings(names)
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= 18
    assert all(short)


def test_a_matrix_of_many_columns_has_the_whole_width_and_few_have_half() -> None:
    assert "card wide" in drawn(characters(10))
    assert "card wide" not in drawn(("a", "b", "c"))


@pytest.mark.parametrize("count", [25, 100, 300])
def test_from_25_classes_on_the_most_confused_pairs_are_listed_openly(count: int) -> None:
    card = drawn(tuple(f"class {number}" for number in range(count)))
    assert "<details" not in card
    assert card.count("<tr>") == 1 + min(count, 30)
    assert "a row per true class" not in card
    if count > 30:
        assert f"{count - 30} more pairs are in metrics.json." in card


@pytest.mark.parametrize("count", [3, 25, 300])
def test_a_card_without_confusions_says_so(count: int) -> None:
    card = drawn(tuple(f"class {number}" for number in range(count)), mistakes=False)
    assert "No record is taken for another class." in card


def test_tables_of_thousands_of_classes_show_the_ones_that_matter() -> None:
    made = report(tuple(f"class {number}" for number in range(1000)))
    shown, counts = classes(made), balance(made)
    assert shown is not None
    assert counts is not None
    assert shown.count("<tr>") == 103
    assert "the 100 weakest of 1,000 classes" in shown
    assert counts.count("<tr>") == 102
    assert "Shown are the 100 smallest and largest of 1,000 classes." in counts
