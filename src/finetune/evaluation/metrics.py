"""How good are predictions? One JSON-ready dictionary, for single-label and for multi-label tasks.

A quantity that the records do not define is `None`: recall and F1 of a class without records, its precision where it
is never predicted either, the AUC of a class without both positives and negatives. The precision of a class that has
records but is never predicted is 0, as in scikit-learn. Averages are taken over the classes that have records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DataError, DivergedError
from finetune.evaluation.calibration import calibration

THRESHOLD = 0.5

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Row = dict[str, "str | int | float | None"]


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
        targets: class numbers `[records]`, or 0 and 1 `[records, classes]` when multi-label.
        probabilities: `[records, classes]`.
        labels: class names, in the order of the columns.
        multi_label: whether each class is predicted for itself, above a probability of 0.5.
        top_k: also count as right where the class is among the k most probable; single-label only.

    Returns:
        JSON values. `per_class` is in the order of `labels`; `confusion_matrix` has a row per true class and a column
        per predicted one; `confusion_matrices` has `[[true negatives, false positives], [false negatives, true
        positives]]` per class. Losses are in nats.

    Raises:
        DataError: there is no record.
        DivergedError: a probability is not a finite number.
        ValueError: the shapes do not fit together.
    """
    if len(targets) == 0:
        raise DataError("There is nothing to evaluate: none of the records could be read. See the list of bad records.")
    scores = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(targets).astype(np.int64)
    wanted = (len(truth), len(labels))
    if scores.shape != wanted or truth.shape != (wanted if multi_label else wanted[:1]):
        raise ValueError(f"targets {truth.shape} and probabilities {scores.shape} do not fit {len(labels)} labels")
    unusable = int((~np.isfinite(scores)).any(axis=1).sum())
    if unusable:
        raise DivergedError(
            f"The network's answers to {unusable} of {len(scores)} records are not finite numbers: the training"
            " diverged. Lower learning_rate, or set gradient_clip_norm."
        )
    if multi_label:
        return _multi_label(truth, scores, labels)
    return _single_label(truth, scores, labels, top_k)


def _single_label(truth: Integers, scores: Floats, labels: Sequence[str], top_k: int | None) -> dict[str, object]:
    classes = np.arange(len(labels))
    predicted = scores.argmax(axis=1)
    one_hot = (truth[:, None] == classes).astype(np.int64)
    rows = _per_class(one_hot, (predicted[:, None] == classes).astype(np.int64), scores, labels)
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    metrics: dict[str, object] = {
        "records": len(truth),
        "accuracy": float((predicted == truth).mean()),
        "majority_baseline_accuracy": float(one_hot.mean(axis=0).max()),
        "log_loss": _log_loss(np.take_along_axis(scores, truth[:, None], axis=1)),
        "auc": _mean(rows, "auc"),
        **_averages(rows),
        **calibration(scores.max(axis=1), predicted == truth),
    }
    if top_k is not None:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        metrics[f"top_{top_k}_accuracy"] = float((best == truth[:, None]).any(axis=1).mean())
    return {**metrics, "labels": list(labels), "per_class": rows, "confusion_matrix": matrix.tolist()}


def _multi_label(truth: Integers, scores: Floats, labels: Sequence[str]) -> dict[str, object]:
    predicted = (scores > THRESHOLD).astype(np.int64)
    rows = _per_class(truth, predicted, scores, labels)
    for row, positive, column in zip(rows, truth.T, scores.T, strict=True):
        row["average_precision"] = _average_precision(positive, column)
    _, repeats = np.unique(truth, axis=0, return_counts=True)
    return {
        "records": len(truth),
        "accuracy": float((predicted == truth).all(axis=1).mean()),
        "majority_baseline_accuracy": float(repeats.max() / len(truth)),
        "hamming_loss": float((predicted != truth).mean()),
        "log_loss": _log_loss(np.where(truth == 1, scores, 1.0 - scores)),
        "auc": _mean(rows, "auc"),
        "average_precision": _mean(rows, "average_precision"),
        "micro": _quality(int((truth & predicted).sum()), int(predicted.sum()), int(truth.sum())),
        **_averages(rows),
        **calibration(scores.ravel(), truth.ravel() == 1),
        "labels": list(labels),
        "per_class": rows,
        "confusion_matrices": _binary_matrices(truth, predicted).tolist(),
    }


def _per_class(truth: Integers, predicted: Integers, scores: Floats, labels: Sequence[str]) -> list[Row]:
    counts = np.stack([(truth & predicted).sum(axis=0), predicted.sum(axis=0), truth.sum(axis=0)], axis=1)
    return [
        {
            "label": label,
            "support": int(support),
            **_quality(int(hits), int(named), int(support)),
            "auc": _auc(truth[:, index], scores[:, index]),
        }
        for index, (label, (hits, named, support)) in enumerate(zip(labels, counts, strict=True))
    ]


def _quality(hits: int, named: int, support: int) -> dict[str, float | None]:
    """Precision, recall and F1 from what was rightly predicted, what was predicted, and what there is."""
    unnamed = 0.0 if support else None
    return {
        "precision": hits / named if named else unnamed,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (named + support) if support else None,
    }


def _averages(rows: Sequence[Row]) -> dict[str, object]:
    """Plain averages over the classes that have records, and averages weighted by their number."""
    occurring = [row for row in rows if row["support"]]
    names = ("precision", "recall", "f1")
    return {
        "macro": {name: _mean(occurring, name) for name in names},
        "weighted": {name: _mean(occurring, name, weight="support") for name in names},
    }


def _mean(rows: Sequence[Row], name: str, weight: str | None = None) -> float | None:
    """Mean of what is defined."""
    defined = [row for row in rows if row[name] is not None]
    if not defined:
        return None
    values = np.array([row[name] for row in defined], dtype=np.float64)
    weights = None if weight is None else np.array([row[weight] for row in defined], dtype=np.float64)
    return float(np.average(values, weights=weights))


def _auc(positive: Integers, scores: Floats) -> float | None:
    """Share of the pairs of a positive and a negative record that the scores order rightly; equal scores count half.

    By ranks (Mann and Whitney, 1947), since importing scikit-learn, with pandas, takes longer than a small evaluation.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    return float((ranks[positive == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _average_precision(positive: Integers, scores: Floats) -> float | None:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, scores)) if positive.any() else None


def _log_loss(probabilities_of_truth: Floats) -> float:
    """Mean over all entries, each bounded where float64 ends, as in scikit-learn."""
    return float(-np.log(probabilities_of_truth.clip(np.finfo(np.float64).eps, 1.0)).mean())


def _binary_matrices(truth: Integers, predicted: Integers) -> Integers:
    """`[classes, 2, 2]`: what is true by what is predicted, 0 before 1."""
    cells = [[((truth == t) & (predicted == p)).sum(axis=0) for p in (0, 1)] for t in (0, 1)]
    return np.array(cells, dtype=np.int64).transpose(2, 0, 1)
