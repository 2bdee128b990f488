"""Classification metrics as a JSON-ready dictionary, for single-label and multi-label tasks.

A quantity that the records do not define is `None`: recall and F1 of a class without records, its precision if it is
never predicted either, the AUC of a class without both positives and negatives. The precision of a class that has
records but is never predicted is 0, as in scikit-learn. Averages are taken over the classes that have records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DataError, DivergedError
from finetune.tasks.calibration import calibration

THRESHOLD = 0.5
MAX_MATRIX_CLASSES = 200
"""Maximum number of classes for a dense confusion matrix; beyond it, only the confused pairs are listed."""
MAX_PAIRS = 10_000
"""Maximum number of listed pairs of confused classes."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Row = dict[str, "str | int | float | None"]


def single_label_metrics(
    targets: NDArray[np.generic], probabilities: NDArray[np.floating], labels: Sequence[str], top_k: int | None = None
) -> dict[str, object]:
    """Compute metrics of records with exactly one class, the most probable one being predicted.

    Args:
        targets: class indices `[records]`.
        probabilities: `[records, classes]`.
        labels: class names, in the order of the columns.
        top_k: also report how often the class is among the k most probable.

    Returns:
        JSON values. `per_class` is in the order of `labels`. `majority_class` is the most frequent class of the
        records, or `None` if they are all of one class. `confusion_matrix` has a row per true class and a column per
        predicted one, for at most 200 classes; `confusion_pairs` has `[true class, predicted class, records]` of
        different classes, the most frequent first, at most 10,000, and `confusion_pairs_count` the number of all.
        Losses are in nats.

    Raises:
        DataError: there is no record.
        DivergedError: a probability is not finite.
        ValueError: the shapes do not match.
    """
    _check(targets, probabilities, labels, targets_shape=(len(targets),))
    # Avoid arrays of records by classes: with thousands of classes, each takes hundreds of megabytes.
    truth, scores, classes = targets.astype(np.int64), probabilities, len(labels)
    predicted = scores.argmax(axis=1)
    counts = _single_label_counts(truth, predicted, classes)
    support = counts[:, 2]
    aucs = [_auc(truth == index, scores[:, index]) if support[index] else None for index in range(classes)]
    rows = _per_class(counts, aucs, labels)
    true_scores = np.take_along_axis(scores, truth[:, None], axis=1)
    metrics: dict[str, object] = {
        "records": len(truth),
        "accuracy": float((predicted == truth).mean()),
        "majority_baseline_accuracy": float(support.max() / len(truth)),
        "majority_class": labels[int(support.argmax())] if (support > 0).sum() > 1 else None,
        "log_loss": _log_loss(true_scores.astype(np.float64)),
        "auc": _mean(rows, "auc"),
        **_averages(rows),
        **calibration(scores.max(axis=1).astype(np.float64), predicted == truth),
    }
    if top_k is not None:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        metrics[f"top_{top_k}_accuracy"] = float((best == truth[:, None]).any(axis=1).mean())
    return {**metrics, "labels": list(labels), "per_class": rows, **_confusion(truth, predicted, labels)}


def multi_label_metrics(
    targets: NDArray[np.generic], probabilities: NDArray[np.floating], labels: Sequence[str]
) -> dict[str, object]:
    """Compute metrics of records with any number of classes, each predicted above a probability of 0.5.

    Args:
        targets: 0 and 1 `[records, classes]`.
        probabilities: `[records, classes]`.
        labels: class names, in the order of the columns.

    Returns:
        JSON values. `per_class` is in the order of `labels`. `majority_baseline_micro_f1` is the highest micro F1 of a
        constant prediction, `majority_labels`. `confusion_matrices` has
        `[[true negatives, false positives], [false negatives, true positives]]` per class. Losses are in nats.

    Raises:
        DataError: there is no record.
        DivergedError: a probability is not finite.
        ValueError: the shapes do not match.
    """
    _check(targets, probabilities, labels, targets_shape=(len(targets), len(labels)))
    truth, scores = targets.astype(np.bool_), probabilities.astype(np.float64)
    predicted = scores > THRESHOLD
    counts = _multi_label_counts(truth, predicted)
    rows = _per_class(counts, [_auc(truth[:, index], scores[:, index]) for index in range(len(labels))], labels)
    baseline, baseline_labels = best_constant_prediction(truth.sum(axis=0), len(truth))
    for row, positive, column in zip(rows, truth.T, scores.T, strict=True):
        row["average_precision"] = _average_precision(positive, column)
    label_sets = Counter(row.tobytes() for row in np.packbits(truth, axis=1))
    return {
        "records": len(truth),
        "accuracy": float((predicted == truth).all(axis=1).mean()),
        "majority_baseline_accuracy": max(label_sets.values()) / len(truth),
        "majority_baseline_micro_f1": baseline,
        "majority_labels": [labels[index] for index in baseline_labels],
        "hamming_loss": float((predicted != truth).mean()),
        "log_loss": _log_loss(np.where(truth, scores, 1.0 - scores)),
        "auc": _mean(rows, "auc"),
        "average_precision": _mean(rows, "average_precision"),
        "micro": _quality(int((truth & predicted).sum()), int(predicted.sum()), int(truth.sum())),
        **_averages(rows),
        **calibration(scores.ravel(), truth.ravel()),
        "labels": list(labels),
        "per_class": rows,
        "confusion_matrices": _binary_matrices(truth, predicted).tolist(),
    }


def metrics_of_decisions(counts: Integers, labels: Sequence[str]) -> dict[str, Any]:
    """Compute precision, recall and F1 of decisions by any thresholds.

    Args:
        counts: correct predictions, predictions and records of each class, `[classes, 3]`.
        labels: class names.

    Returns:
        JSON values: `per_class` in the order of `labels`, and the averages `macro` and `weighted`.
    """
    rows = _per_class(counts, [None] * len(labels), labels)
    return {**_averages(rows), "per_class": rows}


def _check(
    targets: NDArray[np.generic],
    probabilities: NDArray[np.floating],
    labels: Sequence[str],
    targets_shape: tuple[int, ...],
) -> None:
    if len(targets) == 0:
        raise DataError("There is nothing to evaluate: none of the records could be read; see the list of bad records.")
    if probabilities.shape != (len(targets), len(labels)) or targets.shape != targets_shape:
        raise ValueError(
            f"targets {targets.shape} and probabilities {probabilities.shape} do not match {len(labels)} labels"
        )
    non_finite = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if non_finite:
        raise DivergedError(
            f"The model's predictions for {non_finite} of {len(probabilities)} records are not finite numbers: training"
            " diverged. Lower learning_rate, or set gradient_clip_norm."
        )


def _confusion(truth: Integers, predicted: Integers, labels: Sequence[str]) -> dict[str, object]:
    """The dense matrix if there are few classes, and the most frequent confused pairs."""
    classes = len(labels)
    wrong = truth != predicted
    pairs, counts = np.unique(truth[wrong] * classes + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_PAIRS]
    confusion: dict[str, object] = {
        "confusion_pairs": [
            [labels[pair // classes], labels[pair % classes], count]
            for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
        ],
        "confusion_pairs_count": len(pairs),
    }
    if classes <= MAX_MATRIX_CLASSES:
        matrix = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
        confusion["confusion_matrix"] = matrix.tolist()
    return confusion


def best_constant_prediction(positives: Integers, records: int) -> tuple[float, list[int]]:
    """The highest micro F1 of a constant prediction, and its labels: the chance level of a multi-label task.

    Args:
        positives: records that have each label, `[classes]`.
        records: number of all records.
    """
    order = np.argsort(-positives, kind="stable")
    hits = np.cumsum(positives[order])
    scores = 2 * hits / np.maximum(1, records * np.arange(1, len(order) + 1) + positives.sum())
    if not len(scores) or not hits[-1]:
        return 0.0, []
    count = int(scores.argmax()) + 1
    return float(scores[count - 1]), order[:count].tolist()


def single_label_macro_f1(
    targets: NDArray[np.generic], probabilities: NDArray[np.floating], labels: Sequence[str]
) -> float | None:
    """The `macro` F1 of `single_label_metrics`."""
    counts = _single_label_counts(targets.astype(np.int64), probabilities.argmax(axis=1), len(labels))
    return _macro_f1(counts, labels)


def multi_label_macro_f1(
    targets: NDArray[np.generic], probabilities: NDArray[np.floating], labels: Sequence[str]
) -> float | None:
    """The `macro` F1 of `multi_label_metrics`."""
    return _macro_f1(_multi_label_counts(targets.astype(np.bool_), probabilities > THRESHOLD), labels)


def macro_auc(indicators: Iterable[NDArray[np.bool_]], scores: NDArray[np.floating]) -> float | None:
    """Mean AUC of the classes that have both positive and negative records; `None` if there are none.

    Args:
        indicators: for each class, whether the records have it, bool `[records]`.
        scores: `[records, classes]`.
    """
    aucs = (_auc(positive, scores[:, index]) for index, positive in enumerate(indicators))
    defined = [auc for auc in aucs if auc is not None]
    return float(np.mean(defined)) if defined else None


def _macro_f1(counts: Integers, labels: Sequence[str]) -> float | None:
    rows = _per_class(counts, [None] * len(labels), labels)
    return _mean([row for row in rows if row["support"]], "f1")


def _single_label_counts(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """Correct predictions, predictions and records of every class, `[classes, 3]`."""
    columns = (truth[predicted == truth], predicted, truth)
    return np.stack([np.bincount(column, minlength=classes) for column in columns], axis=1)


def _multi_label_counts(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Integers:
    """Correct predictions, predictions and records of every class, `[classes, 3]`."""
    return np.stack([(truth & predicted).sum(axis=0), predicted.sum(axis=0), truth.sum(axis=0)], axis=1)


def micro_f1(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """F1 over all labels of all records, bool `[records, classes]`; 0 if no label is present or predicted."""
    return 2 * int((truth & predicted).sum()) / max(1, int(truth.sum()) + int(predicted.sum()))


def _per_class(counts: Integers, aucs: Sequence[float | None], labels: Sequence[str]) -> list[Row]:
    """A row per class from the counts of correct predictions, predictions and records, `[classes, 3]`."""
    return [
        {"label": label, "support": int(support), **_quality(int(hits), int(predictions), int(support)), "auc": auc}
        for label, (hits, predictions, support), auc in zip(labels, counts, aucs, strict=True)
    ]


def _quality(hits: int, predictions: int, support: int) -> dict[str, float | None]:
    """Precision, recall and F1 from the counts of correct predictions, predictions and records."""
    default = 0.0 if support else None
    return {
        "precision": hits / predictions if predictions else default,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (predictions + support) if support else None,
    }


def _averages(rows: Sequence[Row]) -> dict[str, object]:
    """Macro averages over the classes with records, and averages weighted by the number of records."""
    supported = [row for row in rows if row["support"]]
    names = ("precision", "recall", "f1")
    return {
        "macro": {name: _mean(supported, name) for name in names},
        "weighted": {name: _mean(supported, name, weight="support") for name in names},
    }


def _mean(rows: Sequence[Row], name: str, weight: str | None = None) -> float | None:
    """Mean of the defined values; `None` if there are none."""
    defined = [row for row in rows if row[name] is not None]
    if not defined:
        return None
    values = np.array([row[name] for row in defined], dtype=np.float64)
    weights = None if weight is None else np.array([row[weight] for row in defined], dtype=np.float64)
    return float(np.average(values, weights=weights))


def _auc(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float | None:
    """Share of pairs of a positive and a negative record that the scores order correctly; ties count half.

    Computed from ranks (Mann and Whitney, 1947), since importing scikit-learn, with pandas, takes longer than a small
    evaluation.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _average_precision(positive: NDArray[np.bool_], scores: Floats) -> float | None:
    """Mean precision at each positive record, with ties grouped, as in scikit-learn."""
    positives = int(positive.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) < 0, True))
    hits = np.cumsum(positive[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / positives)


def _log_loss(probabilities_of_truth: Floats) -> float:
    """Mean negative log-likelihood of all entries, with probabilities clipped at float64 epsilon as in scikit-learn."""
    return float(-np.log(probabilities_of_truth.clip(np.finfo(np.float64).eps, 1.0)).mean())


def _binary_matrices(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Integers:
    """Binary confusion matrices `[classes, 2, 2]`: true by predicted, 0 before 1."""
    cells = [[((truth == t) & (predicted == p)).sum(axis=0) for p in (0, 1)] for t in (0, 1)]
    return np.array(cells, dtype=np.int64).transpose(2, 0, 1)
