"""Report cards about quality: confusions, classes, curves and mistakes, also with many classes and long names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from finetune.monitoring.report.confusion import confusion
from finetune.monitoring.report.names import common_prefix, short_names
from finetune.monitoring.report.quality import calibration, classes, curves, mistakes
from finetune.monitoring.report.records import balance
from finetune.tasks.metrics import single_label_metrics
from tests.support.reports import example


def report(names: tuple[str, ...], *, mistakes: bool = True) -> dict[str, Any]:
    truth = np.repeat(np.arange(len(names)), 3)
    predicted = truth.copy()
    if mistakes:
        predicted[::3] = (predicted[::3] + 1) % len(names)
    probabilities = np.full((len(truth), len(names)), 0.1)
    probabilities[np.arange(len(truth)), predicted] = 0.8
    metrics = single_label_metrics(truth, probabilities, names)
    counts = dict.fromkeys(names, 3)
    return example() | {"parts": {"test": metrics}, "classes": {"train": counts}, "records": {"train": len(truth)}}


def rendered(names: tuple[str, ...], *, mistakes: bool = True) -> str:
    card = confusion(report(names, mistakes=mistakes))
    assert card is not None
    return card


def characters(count: int) -> tuple[str, ...]:
    return tuple(f"U+00{number:02X}" for number in range(0xC0, 0xC0 + count))


def column_headings(card: str) -> list[str]:
    return re.findall(r'<th scope="col" title="[^"]*"><span>(.*?)</span></th>', card)


def test_headings_omit_a_common_prefix() -> None:
    card = rendered(characters(24))
    assert column_headings(card) == [f"…{number:02X}" for number in range(0xC0, 0xC0 + 24)]
    assert "prefix U+00" in card
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
def test_headings_are_short_and_unique(names: tuple[str, ...]) -> None:
    short = short_names(names, 14, prefix=common_prefix(names))
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= 18
    assert all(short)


def test_large_matrix_takes_the_full_width() -> None:
    assert "card wide" in rendered(characters(10))
    assert "card wide" not in rendered(("a", "b", "c"))


@pytest.mark.parametrize("count", [25, 100, 300])
def test_many_classes_list_confused_pairs_instead_of_a_matrix(count: int) -> None:
    card = rendered(tuple(f"class {number}" for number in range(count)))
    assert "<details" not in card
    assert card.count("<tr>") == 1 + min(count, 30)
    assert "per true class" not in card
    if count > 30:
        assert f"{count - 30} more pairs are in metrics.json." in card


@pytest.mark.parametrize("count", [3, 25, 300])
def test_card_states_that_there_are_no_confusions(count: int) -> None:
    card = rendered(tuple(f"class {number}" for number in range(count)), mistakes=False)
    assert "No class is confused" in card


def test_tables_are_truncated_with_many_classes() -> None:
    example_report = report(tuple(f"class {number}" for number in range(1000)))
    shown, counts = classes(example_report), balance(example_report)
    assert shown is not None
    assert counts is not None
    assert shown.count("<tr>") == 103
    assert "the 100 of 1,000 classes" in shown
    assert counts.count("<tr>") == 102
    assert "the 100 smallest and largest of 1,000 classes." in counts


def test_long_class_names_are_shortened_with_full_name_in_title() -> None:
    names = tuple(f"a very long class name, longer than a column, that ends in {number}" for number in range(5))
    rendered = classes(report(names))
    assert rendered is not None
    cells = re.findall(r'<th scope="row"><span title="([^"]*)">(.*?)</span>', rendered)
    assert {title for title, _ in cells} == set(names)
    assert len({name for _, name in cells}) == 5
    assert max(len(name) for _, name in cells) <= 28


def test_mistakes_show_prediction_and_label() -> None:
    example_report = report(("a", "b"))
    text = "one two three " * 40
    example_report["wrong"]["records"] = [
        {"key": "k", "truth": "b", "predicted": "a", "probability": 0.81, "text": text}
    ]
    rendered = mistakes(example_report)
    assert rendered is not None
    assert re.search(r'predicted <strong>a</strong></span><span class="sure">81%</span>.*labeled b', rendered)
    # A long text is truncated at a word boundary.
    assert re.search(r"(one|two|three) …</blockquote>", rendered)


JOB = {"strategy": "full"}


@pytest.mark.parametrize(
    ("job", "scores", "expected"),
    [
        (
            {"exported_epoch": 3, "best_epoch": 3},
            [0.1, 0.2, 0.3],
            r"Exported: epoch 3 of 3 by validation accuracy 30\.0%, loss 2\.000, the last epoch\.",
        ),
        (
            {"exported_epoch": 3, "best_epoch": 2},
            [0.1, 0.44, 0.42],
            r"epoch 3 of 3 by validation accuracy 42\.0%.*Best: epoch 2 with accuracy 44\.0%, loss 1\.000",
        ),
        (
            {"exported_epoch": 2, "best_epoch": 2, "best_metric": "loss"},
            [0.1, 0.4, 0.4],
            r"Exported: epoch 2 of 3 by validation loss 1\.000\. Last: epoch 3 with loss 2\.000\.",
        ),
        ({"exported_epoch": None, "best_epoch": 2}, [0.1, 0.4, 0.4], "Exported: .*last step"),
    ],
)
def test_curves_state_exported_and_best_epoch(job: dict[str, int | None], scores: list[float], expected: str) -> None:
    example_report = report(("a", "b"))
    example_report["job"] = JOB | job
    example_report["history"] = [
        {"train:loss": 1.0, "train:accuracy": 0.5, "validation:loss": loss, "validation:accuracy": score}
        for loss, score in zip((3.0, 1.0, 2.0), scores, strict=True)
    ]
    assert re.search(expected, str(curves(example_report)))


def test_curves_without_validation_state_only_the_exported_epoch() -> None:
    example_report = report(("a", "b"))
    example_report["job"] = JOB | {"exported_epoch": 1, "best_epoch": None}
    example_report["history"] = [{"train:loss": 1.0, "train:accuracy": 0.5}]
    assert "Exported: epoch 1" in str(curves(example_report))


@pytest.mark.parametrize(
    ("strategy", "smoothing", "expected", "unexpected"),
    [
        ("full", 0.0, "set label_smoothing=0.1", "epochs="),
        ("full", 0.2, "set label_smoothing=0.3", "epochs="),
        ("evaluate", 0.0, "The model is overconfident.", "label_smoothing"),
    ],
)
def test_calibration_advice_fits_the_job(strategy: str, smoothing: float, expected: str, unexpected: str) -> None:
    example_report = report(("a", "b"))
    example_report["job"] = {"strategy": strategy}
    example_report["asked"]["effective"] |= {"label_smoothing": smoothing, "epochs": 3}
    example_report["parts"]["test"] |= {
        "expected_calibration_error": 0.3,
        "calibration": [{"from": 0.9, "to": 1.0, "answers": 8, "confidence": 0.95, "accuracy": 0.5}],
    }
    rendered = str(calibration(example_report))
    assert expected in rendered
    assert unexpected not in rendered
