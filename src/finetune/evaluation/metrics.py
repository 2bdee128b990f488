"""How good predictions are: one JSON-ready dictionary for single-label and for multi-label tasks.

A quantity that the records do not define is `None`: the AUC of a class without both positives and negatives, recall
and F1 of a class without records, precision of a class without records that is never predicted either. Averages are
taken over the classes where the quantity is defined.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError

THRESHOLD = 0.5

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def classification_metrics(
    targets: NDArray[np.integer | np.floating],
    probabilities: NDArray[np.floating],
    labels: Sequence[str],
    *,
    multi_label: bool,
    top_k: int | None = None,
) -> dict[str, object]:
    """Compare predictions with the truth.

    Args:
        targets: class indices `[records]`, or 0 and 1 `[records, classes]` when multi-label.
        probabilities: `[records, classes]`.
        labels: class names, in the order of the columns.
        multi_label: whether each class is predicted for itself, above a probability of 0.5.
        top_k: also count as right where the class is among the k most probable; single-label only.

    Returns:
        JSON values; lists by class are in the order of `labels`, a confusion matrix has a row per true class.

    Raises:
        ValueError: there are no records, or the shapes do not fit together.
        UserError: a probability is not a finite number.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(targets).astype(np.int64)
    if len(scores) == 0 or scores.shape[1] != len(labels) or truth.shape != scores.shape[: truth.ndim]:
        raise ValueError(f"targets {truth.shape} and probabilities {scores.shape} do not fit {len(labels)} labels")
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"The network's answers to {bad} of {len(scores)} records are not finite numbers: the training diverged. "
            "Lower learning_rate, or set gradient_clip_norm."
        )
    if multi_label:
        return _multi_label(truth, scores, labels)
    return _single_label(truth, scores, labels, top_k)


def _single_label(truth: Integers, scores: Floats, labels: Sequence[str], top_k: int | None) -> dict[str, object]:
    from sklearn.metrics import confusion_matrix, log_loss

    classes = np.arange(len(labels))
    predicted = scores.argmax(axis=1)
    one_hot = (truth[:, None] == classes).astype(np.int64)
    rows = _per_class(one_hot, (predicted[:, None] == classes).astype(np.int64), scores, labels)
    # float32 rows add up to 1 only within 1e-6, which is far from it in float64.
    normalised = scores / scores.sum(axis=1, keepdims=True)
    metrics: dict[str, object] = {
        "records": len(truth),
        "accuracy": float((predicted == truth).mean()),
        "majority_baseline_accuracy": float(one_hot.mean(axis=0).max()),
        "log_loss": float(log_loss(truth, normalised, labels=classes)),
        "auc": _mean([row["auc"] for row in rows]),
        **_averages(rows),
    }
    if top_k is not None:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        metrics[f"top_{top_k}_accuracy"] = float((best == truth[:, None]).any(axis=1).mean())
    matrix: Integers = confusion_matrix(truth, predicted, labels=classes)
    return {**metrics, "labels": list(labels), "per_class": rows, "confusion_matrix": matrix.tolist()}


def _multi_label(truth: Integers, scores: Floats, labels: Sequence[str]) -> dict[str, object]:
    from sklearn.metrics import hamming_loss, multilabel_confusion_matrix, precision_recall_fscore_support

    predicted = (scores > THRESHOLD).astype(np.int64)
    rows = _per_class(truth, predicted, scores, labels)
    for row, positive, column in zip(rows, truth.T, scores.T, strict=True):
        row["average_precision"] = _average_precision(positive, column)
    micro = precision_recall_fscore_support(truth, predicted, average="micro", zero_division=0.0)
    _, repeats = np.unique(truth, axis=0, return_counts=True)
    matrices: Integers = multilabel_confusion_matrix(truth, predicted)
    return {
        "records": len(truth),
        "accuracy": float((predicted == truth).all(axis=1).mean()),
        "majority_baseline_accuracy": float(repeats.max() / len(truth)),
        "hamming_loss": float(hamming_loss(truth, predicted)),
        "log_loss": _binary_log_loss(truth, scores),
        "auc": _mean([row["auc"] for row in rows]),
        "average_precision": _mean([row["average_precision"] for row in rows]),
        "micro": dict(zip(("precision", "recall", "f1"), map(float, micro[:3]), strict=True)),
        **_averages(rows),
        "labels": list(labels),
        "per_class": rows,
        "confusion_matrices": matrices.tolist(),
    }


Row = dict[str, "str | int | float | None"]


def _per_class(truth: Integers, predicted: Integers, scores: Floats, labels: Sequence[str]) -> list[Row]:
    from sklearn.metrics import precision_recall_fscore_support

    table = precision_recall_fscore_support(truth, predicted, average=None, zero_division=0.0)
    rows: list[Row] = []
    for index, (label, precision, recall, f1, support) in enumerate(zip(labels, *table, strict=True)):
        occurs = support > 0
        rows.append(
            {
                "label": label,
                "support": int(support),
                "precision": float(precision) if occurs or predicted[:, index].any() else None,
                "recall": float(recall) if occurs else None,
                "f1": float(f1) if occurs else None,
                "auc": _auc(truth[:, index], scores[:, index]),
            }
        )
    return rows


def _averages(rows: Sequence[Row]) -> dict[str, object]:
    """Macro and support-weighted averages over the classes that occur."""
    occurring = [row for row in rows if row["support"]]
    weights = [float(row["support"] or 0) for row in occurring]
    names = ("precision", "recall", "f1")
    return {
        "macro": {name: _mean([row[name] for row in occurring]) for name in names},
        "weighted": {name: _mean([row[name] for row in occurring], weights) for name in names},
    }


def _mean(values: Sequence[object], weights: Sequence[float] | None = None) -> float | None:
    numbers = [value for value in values if isinstance(value, float)]
    return float(np.average(numbers, weights=weights)) if numbers else None


def _auc(positive: Integers, scores: Floats) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores)) if 0 < positive.sum() < len(positive) else None


def _average_precision(positive: Integers, scores: Floats) -> float | None:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, scores)) if positive.any() else None


def _binary_log_loss(truth: Integers, scores: Floats) -> float:
    """Mean over records and classes, in nats; bounded as scikit-learn bounds its own."""
    smallest = np.finfo(np.float64).eps
    right = np.where(truth == 1, scores, 1.0 - scores).clip(smallest, 1.0)
    return float(-np.log(right).mean())
