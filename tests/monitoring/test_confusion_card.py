"""Report cards about quality: confusions, classes, curves and mistakes, also with many classes and long names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from finetune.evaluation.metrics import classification_metrics
from finetune.monitoring.report.confusion import confusion
from finetune.monitoring.report.names import common_beginning, short_names
from finetune.monitoring.report.quality import calibration, classes, curves, wrong
from finetune.monitoring.report.records import balance
from tests.support.reports import example


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
    short = short_names(names, 14, without=common_beginning(names))
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


def test_long_names_in_the_table_of_classes_differ_and_are_whole_in_their_title() -> None:
    names = tuple(f"a very long class name, longer than a column, that ends in {number}" for number in range(5))
    drawn = classes(report(names))
    assert drawn is not None
    cells = re.findall(r'<th scope="row"><span title="([^"]*)">(.*?)</span>', drawn)
    assert {title for title, _ in cells} == set(names)
    assert len({name for _, name in cells}) == 5
    assert max(len(name) for _, name in cells) <= 28


def test_mistakes_say_what_is_predicted_and_what_is_labelled() -> None:
    made = report(("a", "b"))
    text = "one two three " * 40
    made["wrong"]["records"] = [{"key": "k", "truth": "b", "predicted": "a", "probability": 0.81, "text": text}]
    drawn = wrong(made)
    assert drawn is not None
    assert re.search(r'predicted <strong>a</strong></span><span class="sure">81%</span>.*labelled b', drawn)
    # A long text is truncated at a word boundary.
    assert re.search(r"(one|two|three) …</blockquote>", drawn)


JOB = {"strategy": "full"}


@pytest.mark.parametrize(
    ("job", "scores", "said"),
    [
        (
            {"exported_epoch": 3, "best_epoch": 3},
            [0.1, 0.2, 0.3],
            "Exported: epoch 3 (30.0% on validation), the best one.",
        ),
        (
            {"exported_epoch": 3, "best_epoch": 2},
            [0.1, 0.44, 0.42],
            "Exported: epoch 3 (42.0%). Best: epoch 2 (44.0%). early_stopping_patience=3 would have kept it.",
        ),
        (
            {"exported_epoch": 3, "best_epoch": 2},
            [0.1, 0.4, 0.4],
            "Exported: epoch 3 (40.0%). Best: epoch 2 (40.0%), by a validation loss of 1.000 against 2.000."
            " early_stopping_patience=3 would have kept it.",
        ),
        ({"exported_epoch": None, "best_epoch": 2}, [0.1, 0.4, 0.4], "Exported: the weights of the last step, within"),
    ],
)
def test_the_curves_say_which_epoch_is_exported_and_which_was_best(
    job: dict[str, int | None], scores: list[float], said: str
) -> None:
    made = report(("a", "b"))
    made["job"] = JOB | job
    made["history"] = [
        {"train:loss": 1.0, "train:accuracy": 0.5, "validation:loss": loss, "validation:accuracy": score}
        for loss, score in zip((3.0, 1.0, 2.0), scores, strict=True)
    ]
    assert said in str(curves(made))


def test_the_curves_of_a_job_without_validation_name_the_exported_epoch_alone() -> None:
    made = report(("a", "b"))
    made["job"] = JOB | {"exported_epoch": 1, "best_epoch": None}
    made["history"] = [{"train:loss": 1.0, "train:accuracy": 0.5}]
    assert "Exported: epoch 1, the last one." in str(curves(made))


@pytest.mark.parametrize(
    ("strategy", "smoothing", "said", "unsaid"),
    [
        ("full", 0.0, "label_smoothing=0.1 lowers that", "epochs="),
        ("full", 0.2, "label_smoothing=0.3 lowers that", "epochs="),
        ("evaluate", 0.0, "The model is overconfident.", "label_smoothing"),
    ],
)
def test_advice_about_calibration_fits_the_job(strategy: str, smoothing: float, said: str, unsaid: str) -> None:
    made = report(("a", "b"))
    made["job"] = {"strategy": strategy}
    made["asked"]["effective"] |= {"label_smoothing": smoothing, "epochs": 3}
    made["parts"]["test"] |= {
        "expected_calibration_error": 0.3,
        "calibration": [{"from": 0.9, "to": 1.0, "answers": 8, "confidence": 0.95, "accuracy": 0.5}],
    }
    drawn = str(calibration(made))
    assert said in drawn
    assert unsaid not in drawn
