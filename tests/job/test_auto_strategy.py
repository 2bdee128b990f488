"""Jobs with strategy auto: the default, its decision, what it exports, and when another strategy replaces it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.job.test_diverged_job import HOPELESS
from tests.job.test_solved_head import write_texts
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import EPOCH, FinishedJob, run_training, succeeded

FINE_TUNED = {"strategy": "auto", "epochs": "3", "batch_size": "16", "precision": "fp32", "best_metric": "loss"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "bert", "bert")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "train", 12)


def train(root: Path, texts: Path, model: Path, options: Mapping[str, str]) -> FinishedJob:
    return run_training(root, {"train": texts, "model": model}, {"precision": "fp32", **options})


def test_the_default_solves_the_head_and_decides(tmp_path: Path, texts: Path, bert: Path) -> None:
    job = succeeded(run_training(tmp_path, {"train": texts, "validation": texts, "model": bert}, {"precision": "fp32"}))
    assert (
        "  strategy  auto: the default\n            first the head is solved; 12 training records per class" in job.log
    )
    (reason,) = re.findall(r"^strategy=auto: (.*)", job.log, re.MULTILINE)
    assert re.match(r"the solved head has a cross-validated accuracy of 0\.\d+ \(nearest class mean 0\.\d+", reason)
    # No other weights could be better than a head without errors.
    assert reason.endswith("the solved head is kept, which makes no error on the validation records")
    summary = job.metrics()["job"]
    assert (summary["strategy"], summary["epochs"], summary["exported_weights"]) == ("auto", 1, "solved head")
    assert EPOCH.findall(job.log) == []


def test_fine_tuning_from_the_solved_head(tmp_path: Path, texts: Path, bert: Path) -> None:
    job = succeeded(run_training(tmp_path, {"train": texts, "validation": texts, "model": bert}, FINE_TUNED))
    summary, rows = job.metrics()["job"], job.metrics()["job"]["history"]
    assert "up to 9: 3 epochs of 3 after the head is solved" in job.log
    assert len(rows) == 4
    assert [line.partition(";")[0] for line in EPOCH.findall(job.log)] == ["epoch=2", "epoch=3", "epoch=4"]
    losses = [row["validation:loss"] for row in rows]
    averages = {name: row["validation:loss"] for name, row in summary["averages"].items()}
    assert len(averages) == 2
    # What is exported is the best on validation of all that was tried.
    measured = job.metrics()["validation"]["log_loss"]
    assert measured == pytest.approx(min(*losses, *averages.values()), abs=1e-5)
    page = (job.folder.output_data / "report.html").read_text("utf-8")
    assert "<h2>Solved head</h2>" in page
    assert "<h2>Learning curves</h2>" in page
    assert f"{summary['steps']:,} steps" in page


def test_hyperparameters_of_gradient_steps_without_a_strategy_train_all_layers(
    tmp_path: Path, texts: Path, bert: Path
) -> None:
    job = succeeded(train(tmp_path, texts, bert, {"epochs": "1"}))
    assert "  strategy  full: epochs is set, and no strategy" in job.log
    assert job.metrics()["job"]["strategy"] == "full"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"feature_cache": "off"}, "feature_cache=off"),
        ({"cache_size_gb": "0"}, "GB of features exceed the memory for them (cache_size_gb)"),
    ],
)
def test_full_replaces_auto_if_the_head_cannot_be_solved(
    tmp_path: Path, texts: Path, bert: Path, options: dict[str, str], reason: str
) -> None:
    job = succeeded(train(tmp_path, texts, bert, {"strategy": "auto", "epochs": "1", **options}))
    line = next(line for line in job.log.splitlines() if line.startswith("  strategy  "))
    assert line.startswith("  strategy  full: auto does not apply: ")
    assert line.endswith(reason)


def test_without_validation_records_the_table_decides(tmp_path: Path, bert: Path) -> None:
    texts = write_texts(tmp_path / "texts", 12, lambda number: ("cat|pet", "dog|pet", "mat")[number % 3])
    options = {"multi_label": "true", "validation_fraction": "0", "epochs": "1", "strategy": "auto"}
    job = succeeded(train(tmp_path / "job", texts, bert, options))
    assert "there are no validation records to compare with: the table alone decides" in job.log
    summary = job.metrics()["job"]
    assert "averages" not in summary
    assert (summary["epochs"], summary["exported_weights"], summary["exported_epoch"]) == (2, "last epoch", 2)


def test_divergence_leaves_the_solved_head(tmp_path: Path, images: Path, artifact: Path) -> None:
    options = {**HOPELESS, "strategy": "auto", "reinitialize_top_layer": "true", "rules": "None"}
    job = succeeded(run_training(tmp_path, {"train": images, "model": artifact}, options))
    assert re.search(r"The training loss became \w+ in epoch \d+: .* The best weights before are exported\.", job.log)
    assert job.metrics()["job"]["exported_weights"] == "solved head"


def test_no_epoch_begins_after_max_minutes(tmp_path: Path, texts: Path, bert: Path) -> None:
    job = succeeded(train(tmp_path, texts, bert, {**FINE_TUNED, "max_minutes": "0.001"}))
    assert "max_minutes=0.001: no further epoch begins after" in job.log
    summary = job.metrics()["job"]
    assert (summary["epochs"], summary["stopped_early"], summary["exported_weights"]) == (1, True, "solved head")
