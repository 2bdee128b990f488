"""A tuning objective that the job never prints is rejected before any reading or training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError
from finetune.job.request import check_objective, read_request
from finetune.monitoring.metric_lines import METRICS
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import lay_out
from tests.support.coloured_images import write_images
from tests.support.whole_jobs import build_request, run_training, succeeded


def check(purposes: str, **hyperparameters: str) -> None:
    name = hyperparameters.pop("objective")
    spec = parse_hyperparameters({"_tuning_objective_metric": name, **hyperparameters})
    check_objective(spec, purposes.split())


@pytest.mark.parametrize(
    ("objective", "purposes", "options", "cause"),
    [
        ("validation:accuracy", "train", {"validation_fraction": "0"}, "nothing is held out: give a channel"),
        ("validation:macro_f1", "train test", {"validation_fraction": "0"}, "nothing is held out: give a channel"),
        ("validation:loss", "test model", {"strategy": "evaluate"}, "there is no channel 'validation', and strategy='"),
        ("train:loss", "train test", {"strategy": "evaluate"}, "strategy='evaluate' trains nothing"),
        ("test:accuracy", "train validation", {}, "there is no channel 'test'"),
        ("validation:acuracy", "train", {}, "no metric has this name (did you mean 'validation:accuracy'?)"),
        ("accuracy", "train", {}, "no metric has this name (did you mean"),
        ("eval:accuracy", "train", {}, "no metric has this name"),
        ("validation:top_5_accuracy", "train", {"top_k": "5"}, "no metric has this name"),
        ("validation:micro_f1", "train", {}, "only jobs with multi_label=true have it"),
        ("validation:average_precision", "train", {}, "only jobs with multi_label=true have it"),
        ("Validation:Accuracy", "train", {}, "no metric has this name"),
    ],
)
def test_objective_that_is_not_logged_is_refused(
    objective: str, purposes: str, options: dict[str, str], cause: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(purposes, objective=objective, **options)
    message = str(caught.value)
    assert message.startswith(f"_tuning_objective_metric={objective!r} is never printed")
    assert cause in message
    assert len(message) <= 1024
    printed = message.rpartition("This job prints ")[2].rstrip(".").split(", ")
    assert printed
    for name in printed:
        check(purposes, objective=name, **options)


@pytest.mark.parametrize(
    ("objective", "purposes", "options"),
    [
        ("validation:accuracy", "train", {}),
        ('"validation:accuracy"', "train", {}),
        ("validation:accuracy", "train validation", {"validation_fraction": "0"}),
        ("train:loss", "train", {"validation_fraction": "0"}),
        ("test:macro_f1", "train test", {}),
        ("test:accuracy", "test model", {"strategy": "evaluate"}),
    ],
)
def test_objective_that_is_logged_is_accepted(objective: str, purposes: str, options: dict[str, str]) -> None:
    check(purposes, objective=objective, **options)


def test_objective_is_checked_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    options = {"_tuning_objective_metric": "validation:accuracy", "validation_fraction": "0"}
    folder = lay_out(tmp_path / "opt-ml", build_request({"train": tmp_path / "empty"}, options))
    with pytest.raises(UserError, match="is never printed"):
        read_request(Paths(folder.root))


def test_objective_undefined_for_the_records_is_refused(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    single_class = write_images(tmp_path / "validation", 2, names=("red",))
    channels = {"train": holdout, "validation": single_class, "model": artifact}
    job = run_training(tmp_path / "job", channels, {"_tuning_objective_metric": "validation:auc"})
    assert job.exit_code == 1
    assert job.failure.startswith("_tuning_objective_metric=validation:auc is not defined by the validation records")


def test_every_listed_metric_is_logged(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    channels = {"train": holdout, "test": holdout, "model": artifact}
    options = {"strategy": "feature_extraction", "epochs": "1", "_tuning_objective_metric": "validation:macro_f1"}
    job = succeeded(run_training(tmp_path / "job", channels, options))
    for metric in METRICS:
        # Multi-label jobs are covered by tests/job/test_verdict_job.py.
        assert bool(re.search(metric.regex, job.log)) != metric.multi_label, metric.name


def test_last_logged_values_are_those_of_exported_weights(tmp_path: Path, holdout: Path) -> None:
    # With steps of this size, the model gets worse after the first epoch.
    options = {"strategy": "from_scratch", "model_name": "resnet18", "image_size": "32", "batch_size": "6"}
    options |= {"epochs": "5", "learning_rate": "0.3", "optimizer": "sgd"}
    job = succeeded(run_training(tmp_path / "job", {"train": holdout, "validation": holdout}, options))
    metrics = job.metrics()
    epochs, best = metrics["job"]["epochs"], metrics["job"]["best_epoch"]
    row = metrics["job"]["history"][best - 1]
    for name in ("loss", "accuracy"):
        values = re.findall(rf"validation:{name}=([0-9]+\.[0-9]{{6}});", job.log)
        assert len(values) == epochs + 1
        assert values[-1] == f"{metrics['validation'][name]:.6f}"
        assert float(values[-1]) == pytest.approx(row[f"validation:{name}"], rel=1e-4)
    assert (metrics["job"]["exported_weights"], metrics["job"]["exported_epoch"]) == ("best epoch", best)
    assert f"Exported: epoch {best} of {epochs} by validation accuracy {row['validation:accuracy']:.4f}" in job.log
    exported = json.loads((job.folder.model / "metrics.json").read_text("utf-8"))
    assert exported["validation"]["loss"] == metrics["validation"]["loss"]
