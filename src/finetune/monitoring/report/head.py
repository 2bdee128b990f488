"""Report section on a solved head: its cross-validated quality, and the regularization strengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.monitoring.report.markup import Html, number, percent, pluralize, section, table, tag


def solved_head(report: Mapping[str, Any]) -> Html | None:
    """Render the cross-validation; `None` if the head was not solved."""
    solution = report["job"].get("head_solver")
    if solution is None:
        return None
    row: Mapping[str, float] = next(iter(report["history"]), {})
    train = f"Accuracy on the training records is {percent(row.get('train:accuracy'))}."
    rows = [
        (
            f"{result['strength']:.4g}" + (" (chosen)" if result["strength"] == solution["strength"] else ""),
            number(result["cv_loss"], 4),
            percent(result["cv_accuracy"]),
        )
        for result in solution["path"]
    ]
    strengths = table(("regularization strength", "loss", "accuracy"), rows, class_="tall") if rows else None
    passed = solution["hidden_layer"] != "unchanged"
    hidden = (
        "The hidden layer of the head passes its inputs through, which was better than its weights." if passed else ""
    )
    scale = f"The head is multiplied by {solution['scale']:.3g}, with which the held-out loss is lowest."
    note = tag("p", f"{estimate_sentence(solution)} {train} {scale} {hidden}", class_="note")
    return section(
        "Solved head",
        note,
        strengths,
        name="head",
        lead=f"Solved on {pluralize(solution['records'], 'record')} with regularization {solution['strength']:.4g}.",
    )


def estimate_sentence(solution: Mapping[str, Any]) -> str:
    """Return a sentence with the cross-validated accuracy, or why there is none."""
    estimate: Mapping[str, Any] | None = solution["cross_validation"]
    if estimate is None:
        return "Not cross-validated: no class has two training records."
    folds = f"{estimate['folds']} folds" if estimate["folds"] > 1 else "one fold"
    return (
        f"Cross-validated accuracy is {percent(estimate['accuracy'])} \N{PLUS-MINUS SIGN}"
        f" {percent(estimate['accuracy_standard_error'])} (standard error) on"
        f" {pluralize(estimate['records'], 'training record')} in {folds}; the loss is {number(estimate['loss'], 4)}."
        " Each fold is predicted with the strength that the other folds choose."
    )
