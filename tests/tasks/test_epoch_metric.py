"""Metrics that determine the best epoch equal those of the final evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from finetune.tasks.epoch_metric import epoch_metric
from finetune.tasks.multi_label import MultiLabelClassification
from finetune.tasks.single_label import SingleLabelClassification
from finetune.tasks.task import Probabilities, Targets, Task
from finetune.tasks.thresholds import ThresholdTarget

NAMES = ("a", "b", "c")


def random_records(task: Task, seed: int) -> tuple[Targets, Probabilities]:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((40, task.outputs)).astype(np.float32)
    if task.has_exclusive_classes:
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return rng.integers(0, task.outputs, 40), probabilities
    return (rng.random((40, task.outputs)) < 0.4).astype(np.float32), probabilities


TASKS: list[Task] = [
    SingleLabelClassification(NAMES),
    SingleLabelClassification(("no", "yes")),
    MultiLabelClassification(NAMES),
]


@pytest.mark.parametrize("task", TASKS)
def test_averages_equal_those_of_scikit_learn_and_of_the_final_evaluation(task: Task) -> None:
    for seed in range(10):
        targets, probabilities = random_records(task, seed)
        f1, auc = (epoch_metric(task, name, targets, probabilities, None) for name in ("macro_f1", "auc"))
        metrics = task.metrics(targets, probabilities, None)
        assert metrics["macro"]["f1"] == f1  # type: ignore[index]  # JSON values
        assert metrics["auc"] == auc
        if task.has_exclusive_classes:
            predicted: object = probabilities.argmax(axis=1)
            scores = probabilities if task.outputs > 2 else probabilities[:, 1]
        else:
            predicted, scores = probabilities > 0.5, probabilities
        assert f1 == pytest.approx(f1_score(targets, predicted, average="macro"))
        assert auc == pytest.approx(roc_auc_score(targets, scores, average="macro", multi_class="ovr"))


def test_metric_is_undefined_if_the_records_do_not_define_it() -> None:
    task = SingleLabelClassification(NAMES)
    targets, probabilities = np.zeros(5, np.int64), np.full((5, 3), 1 / 3, np.float32)
    assert epoch_metric(task, "auc", targets, probabilities, None) is None
    assert epoch_metric(task, "macro_f1", targets[:0], probabilities[:0], None) is None


def test_recall_at_target_precision_and_the_reverse() -> None:
    task = SingleLabelClassification(("no", "yes"))
    targets = np.array([1, 1, 0, 1, 0])
    yes = np.array([0.9, 0.8, 0.7, 0.6, 0.1], np.float32)
    probabilities = np.stack([1 - yes, yes], axis=1)
    precise, complete = ThresholdTarget(precision=0.99), ThresholdTarget(recall=0.99)
    assert epoch_metric(task, "recall_at_target", targets, probabilities, precise) == pytest.approx(2 / 3)
    assert epoch_metric(task, "precision_at_target", targets, probabilities, complete) == pytest.approx(3 / 4)


def test_missed_target_counts_as_zero() -> None:
    task = MultiLabelClassification(("a", "b"))
    targets = np.array([[1, 0], [0, 1]], np.float32)
    # The only record with b has the lower probability of b.
    probabilities = np.array([[0.9, 0.9], [0.1, 0.2]], np.float32)
    value = epoch_metric(task, "recall_at_target", targets, probabilities, ThresholdTarget(precision=0.9))
    assert value == pytest.approx(0.5)


def test_metric_without_its_target_is_refused() -> None:
    targets, probabilities = random_records(TASKS[0], 0)
    with pytest.raises(ValueError, match="recall_at_target"):
        epoch_metric(TASKS[0], "recall_at_target", targets, probabilities, None)
