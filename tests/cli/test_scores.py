"""Scores of predictions with known labels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pytest
from rich.console import Console
from sklearn.metrics import f1_score

from finetune.cli.scores import MAX_ROWS, Scores

Decision = tuple[tuple[str, ...] | None, Mapping[str, object]]


def printed(labels: Sequence[str], *decisions: Decision) -> list[str]:
    scores, file = Scores(labels), io.StringIO()
    for truth, record in decisions:
        scores.add(truth, record)
    scores.print(Console(file=file, markup=False, width=100))
    return file.getvalue().splitlines()


def single(truth: str, predicted: str | None) -> Decision:
    return (truth,), {"predicted_label": predicted}


def test_scores_equal_those_of_scikit_learn() -> None:
    truth, predicted = ["a", "a", "b", "b", "c"], ["a", "b", "b", "b", "a"]
    lines = printed(("a", "b", "c"), *map(single, truth, predicted))
    macro = f1_score(truth, predicted, average="macro", zero_division=0)
    assert lines[0] == f"accuracy 0.6000 (3 of 5), macro F1 {macro:.3f}"
    assert [line.split() for line in lines[1:]] == [
        ["class", "precision", "recall", "f1", "support"],
        ["a", "0.500", "0.500", "0.500", "2"],
        ["b", "0.667", "1.000", "0.800", "2"],
        ["c", "0.000", "0.000", "0.000", "1"],
    ]


def test_inputs_without_labels_print_nothing() -> None:
    assert printed(("a", "b"), (None, {"predicted_label": "a"})) == []


def test_unknown_labels_are_left_out() -> None:
    lines = printed(("a", "b"), single("a", "a"), single("zebra", "a"), single("zebra", "b"))
    assert lines[0] == "Left out of the scores: 2 labels that the model does not know: 'zebra' (2)"
    assert lines[1].startswith("accuracy 1.0000 (1 of 1)")


def test_missing_predictions_are_counted_as_wrong_and_reported() -> None:
    lines = printed(("a", "b"), single("a", None), single("b", "b"), single("a", "b"))
    assert lines[0].startswith("accuracy 0.3333 (1 of 3)")
    assert lines[1] == "1 without a predicted label; accuracy of the others 0.5000"


def test_several_labels_must_match_exactly() -> None:
    right: Decision = (("a", "b"), {"predicted_labels": ["b", "a"]})
    half: Decision = (("a",), {"predicted_labels": ["a", "b"]})
    lines = printed(("a", "b"), right, half)
    assert lines[0] == "accuracy 0.5000 (1 of 2), macro F1 0.833"


@pytest.mark.parametrize("classes", [MAX_ROWS, MAX_ROWS + 1])
def test_long_tables_list_the_weakest_classes(classes: int) -> None:
    names = [f"class{index}" for index in range(classes)]
    lines = printed(names, *(single(name, name if index else names[1]) for index, name in enumerate(names)))
    is_cut = classes > MAX_ROWS
    assert any(f"The {MAX_ROWS} classes with the lowest F1 of {classes}" in line for line in lines) == is_cut
    rows = [line.split()[0] for line in lines if line.startswith("class") and "precision" not in line]
    assert len(rows) == MAX_ROWS
    assert rows[0] == "class0"
