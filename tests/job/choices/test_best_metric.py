"""The metric of the best epoch suits the job, and its epoch is exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.data.labels import LabelMap
from finetune.data.loading.dataset import Subset
from finetune.job.choices.best_metric import choose_best_metric
from finetune.job.data.inputs import Inputs
from finetune.monitoring.score import BestMetric
from finetune.tasks.create import create_task
from tests.support.coloured_images import write_images
from tests.support.tiny import TinyReader
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

BALANCED = {"cat": 4, "dog": 4}


class LabeledReader(TinyReader):
    """Records with the given labels."""

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(len(labels))
        self._given = tuple(labels)

    def labels(self, index: int) -> tuple[str, ...]:
        return (self._given[index],)


def chosen(records: Mapping[str, int], **hyperparameters: str) -> BestMetric:
    counts = Counter(records)
    spec = parse_hyperparameters(hyperparameters)
    labels = LabelMap(tuple(sorted(counts)), spec.data.multi_label)
    reader = LabeledReader(list(counts.elements()))
    train = Subset(reader, tuple(range(counts.total())))
    return choose_best_metric(spec, Inputs("text-classification", create_task(labels), labels, train, None, None, True))


@pytest.mark.parametrize(
    ("hyperparameters", "name"),
    [
        ({}, "accuracy"),
        ({"best_metric": "macro_f1"}, "macro_f1"),
        ({"best_metric": "target", "target_recall": "0.9"}, "precision_at_target"),
        ({"target_precision": "0.9"}, "recall_at_target"),
        ({"best_metric": "loss", "target_precision": "0.9"}, "loss"),
        ({"multi_label": "true"}, "micro_f1"),
        ({"multi_label": "true", "class_weights": "balanced"}, "micro_f1"),
        ({"class_weights": "balanced"}, "macro_f1"),
        ({"_tuning_objective_metric": "validation:auc", "class_weights": "balanced"}, "auc"),
        # The best epoch cannot be chosen by these.
        ({"_tuning_objective_metric": "test:auc"}, "accuracy"),
        ({"_tuning_objective_metric": "validation:macro_recall"}, "accuracy"),
    ],
)
def test_metric_follows_request(hyperparameters: dict[str, str], name: str) -> None:
    metric = chosen(BALANCED, **hyperparameters)
    assert (metric.name, metric.exports) == (name, True)
    assert bool(metric.reason) == ("best_metric" not in hyperparameters and name != "accuracy")


def test_metric_follows_balance_of_classes() -> None:
    assert chosen({"rare": 2, "usual": 20}).name == "accuracy"
    rare = chosen({"rare": 2, "usual": 21})
    assert (rare.name, rare.reason) == ("macro_f1", "a class has 10 times as many training records as another")


def test_last_epoch_is_exported_on_request() -> None:
    assert chosen(BALANCED, best_metric="none") == BestMetric("accuracy", exports=False)


def run(root: Path, train: Path, artifact: Path, **hyperparameters: str) -> FinishedJob:
    options = {"strategy": "feature_extraction", "epochs": "3", "batch_size": "8", **hyperparameters}
    return succeeded(run_training(root, {"train": train, "model": artifact}, options))


def test_job_exports_epoch_with_the_best_macro_f1(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    job = run(tmp_path, holdout, artifact, best_metric="macro_f1")
    metrics = job.metrics()
    rows, exported = metrics["job"]["history"], metrics["job"]["exported_epoch"]
    values = [(row["validation:macro_f1"], -row["validation:loss"]) for row in rows]
    assert exported == values.index(max(values)) + 1
    assert "  export    the epoch with the highest validation macro F1\n" in job.log
    value = rows[exported - 1]["validation:macro_f1"]
    assert metrics["validation"]["macro"]["f1"] == pytest.approx(value)
    assert f"Exported: epoch {exported} of 3 by validation macro F1 {value:.4f}, loss " in job.log
    assert f"Exported: epoch {exported} of 3 by validation macro F1" in (
        job.folder.output_data / "report.html"
    ).read_text("utf-8")


def test_job_without_validation_exports_last_epoch(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    job = run(tmp_path, holdout, artifact, validation_fraction="0", best_metric="loss")
    assert "export    the last epoch: there are no validation records" in job.log
    assert "best_metric has no effect: there are no validation records." in job.log
    assert "Exported: epoch 3 of 3, the last.\n" in job.log
    assert job.metrics()["job"]["exported_weights"] == "last epoch"


def test_metric_that_validation_records_do_not_define_is_refused(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    validation = write_images(tmp_path / "validation", 2, names=("red",))
    channels = {"train": holdout, "validation": validation, "model": artifact}
    job = run_training(tmp_path / "job", channels, {"best_metric": "auc"})
    assert job.exit_code == 1
    assert job.failure.startswith("best_metric=auc is not defined by the validation records: all have the same labels")
