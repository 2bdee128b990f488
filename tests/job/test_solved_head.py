"""Jobs that solve the head: chosen by default for frozen layers, exported as the plain layer, and explained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.export.handler import load_handler
from finetune.job.choices import head_solver
from tests.support.tiny_transformers import WORDS, write_folder
from tests.support.whole_jobs import METRIC, FinishedJob, run_training, succeeded

pytestmark = pytest.mark.slow

HEAD = {"strategy": "feature_extraction", "precision": "fp32"}
STRENGTH = re.compile(r"^strength=([0-9.]+) cv_loss=([0-9.]+) cv_accuracy=([0-9.]+)$", re.MULTILINE)


def write_texts(folder: Path, per_class: int, labels: Callable[[int], str] = lambda number: "") -> Path:
    """Texts in which a word tells the class, or the labels are those of a function."""
    folder.mkdir(parents=True)
    lines = ["label,text"]
    for number in range(3 * per_class):
        words = [WORDS[4 + (number * step) % 11] for step in range(1, 3 + number % 7)]
        word = ("cat", "dog", "mat")[number % 3]
        lines.append(f"{labels(number) or word},{' '.join([word] * 4 + words)}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "bert", "bert")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "train", 20)


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory, texts: Path, bert: Path) -> FinishedJob:
    root = tmp_path_factory.mktemp("solved")
    return succeeded(run_training(root, {"train": texts, "validation": texts, "model": bert}, HEAD))


def solution_of(job: FinishedJob) -> dict[str, Any]:
    solution: dict[str, Any] = job.metrics()["job"]["head_solver"]
    return solution


def train(root: Path, texts: Path, model: Path, options: Mapping[str, str]) -> FinishedJob:
    return run_training(root, {"train": texts, "model": model}, {**HEAD, **options})


def test_log_lines_and_metrics(solved: FinishedJob) -> None:
    assert "  head      last layer solved by L-BFGS (head_solver)" in solved.log
    assert "outputs of frozen layers (up to layer2) are computed once" in solved.log
    assert "epoch=" not in solved.log
    path = solution_of(solved)["path"]
    lines = [tuple(map(float, line)) for line in STRENGTH.findall(solved.log)]
    expected = [pytest.approx((row["strength"], row["cv_loss"], row["cv_accuracy"]), abs=1e-4) for row in path]
    # The lines of the pretrained hidden layer, and of one that passes its inputs through.
    assert expected in (lines[: len(path)], lines[-len(path) :])
    assert len(lines) > len(path)
    accuracy = solved.metrics()["validation"]["accuracy"]
    # The line of the solved head and the final line, for the metric definitions of the platform.
    assert [float(value) for value in METRIC.findall(solved.log)] == [pytest.approx(accuracy, abs=1e-6)] * 2
    job = solved.metrics()["job"]
    assert (job["epochs"], job["steps"], job["exported_weights"]) == (1, 1, "solved head")
    assert job["history"][0]["validation:accuracy"] == accuracy


def test_the_report_has_the_cross_validation(solved: FinishedJob) -> None:
    page = (solved.folder.output_data / "report.html").read_text("utf-8")
    solution = solution_of(solved)
    assert "<h2>Solved head</h2>" in page
    assert "<h2>Learning curves</h2>" not in page
    assert "<h2>Learning rates</h2>" not in page
    assert f"Cross-validated accuracy is {solution['cross_validation']['accuracy']:.1%}" in page
    assert f'<th scope="row">{solution["strength"]:.4g} (chosen)</th>' in page
    assert solution["records"] == solution["cross_validation"]["records"] == 60


def test_the_artifact_serves_the_evaluated_probabilities(solved: FinishedJob) -> None:
    rows = solved.predictions()
    body = json.dumps({"inputs": [line.split(",", 1)[1] for line in _lines(solved)]})
    handler = load_handler(solved.folder.model)
    served = handler.predict_fn(handler.input_fn(body, "application/json"), handler.model_fn(str(solved.folder.model)))
    assert len(rows) == 60
    for row, record in zip(rows, served.records, strict=True):
        for label, probability in zip(record["labels"], record["probabilities"], strict=True):
            assert float(row[f"probability:{label}"]) == pytest.approx(probability, abs=1e-4)
    config = json.loads((solved.folder.model / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]


def _lines(job: FinishedJob) -> list[str]:
    path = job.folder.root / "input/data/validation/train.csv"
    return path.read_text("utf-8").splitlines()[1:]


def test_repetition_gives_the_same_bits(tmp_path: Path, texts: Path, bert: Path, solved: FinishedJob) -> None:
    again = succeeded(run_training(tmp_path, {"train": texts, "validation": texts, "model": bert}, HEAD))
    assert again.weights() == solved.weights()
    assert solution_of(again) == solution_of(solved)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epochs": "1"}, "epochs is set"),
        ({"learning_rate": "0.01", "batch_size": "8", "epochs": "1"}, "epochs, batch_size and learning_rate are set"),
        ({"head_solver": "sgd", "epochs": "1"}, "head_solver=sgd"),
        ({"feature_cache": "off"}, "feature_cache=off"),
        ({"cache_size_gb": "0"}, "GB of features exceed the memory for them (cache_size_gb)"),
    ],
)
def test_otherwise_the_head_is_trained_and_the_plan_says_why(
    tmp_path: Path, texts: Path, bert: Path, options: dict[str, str], reason: str
) -> None:
    job = succeeded(train(tmp_path, texts, bert, options))
    line = next(line for line in job.log.splitlines() if line.startswith("  head      "))
    assert line.startswith("  head      trained by gradient steps (head_solver): ")
    assert line.endswith(reason)
    assert "epoch=1; " in job.log
    assert "head_solver" not in job.metrics()["job"]


def test_a_hidden_layer_without_weights_passes_its_inputs_through(tmp_path: Path, texts: Path) -> None:
    model = write_folder(tmp_path / "distilbert", "distilbert", headless=True)
    job = succeeded(train(tmp_path, texts, model, {}))
    assert solution_of(job)["hidden_layer"] == "passes its inputs through"
    weights = load_file(job.folder.model / "model.safetensors")
    assert torch.equal(weights["pre_classifier.weight"], torch.eye(16))
    assert job.metrics()["job"]["history"][0]["train:accuracy"] > 0.5


def test_a_head_without_bias_is_trained(tmp_path: Path, texts: Path) -> None:
    job = succeeded(train(tmp_path, texts, write_folder(tmp_path / "gpt2", "gpt2"), {}))
    assert "trained by gradient steps (head_solver): the last layer has no bias" in job.log


def test_a_long_solve_is_left_to_explicit_requests(
    tmp_path: Path, texts: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head_solver._MAX_MACS, "cpu", 1)
    job = succeeded(train(tmp_path / "auto", texts, bert, {}))
    assert "a solution would take long with 48 records, 16 features and 3 classes" in job.log
    job = succeeded(train(tmp_path / "lbfgs", texts, bert, {"head_solver": "lbfgs"}))
    assert "head_solver" in job.metrics()["job"]


def test_lbfgs_that_is_not_possible_fails(tmp_path: Path, texts: Path, bert: Path) -> None:
    job = train(tmp_path, texts, bert, {"head_solver": "lbfgs", "feature_cache": "off"})
    assert job.exit_code == 1
    assert "head_solver='lbfgs', but the head cannot be solved: feature_cache=off. Use head_solver=auto." in job.failure


def test_lbfgs_names_hyperparameters_without_effect(tmp_path: Path, texts: Path, bert: Path) -> None:
    job = succeeded(train(tmp_path, texts, bert, {"head_solver": "lbfgs", "epochs": "3", "learning_rate": "1"}))
    assert (
        "epochs, learning_rate have no effect: head_solver='lbfgs' solves the head without gradient steps." in job.log
    )
    assert solution_of(job)["name"] == "lbfgs"


def test_a_kept_head_is_solved_only_on_request(tmp_path: Path, texts: Path, solved: FinishedJob) -> None:
    job = succeeded(train(tmp_path / "auto", texts, solved.folder.model, {}))
    assert "the head of the weights is kept, and training continues from it" in job.log
    job = succeeded(train(tmp_path / "lbfgs", texts, solved.folder.model, {"head_solver": "lbfgs"}))
    assert "head_solver" in job.metrics()["job"]


def test_several_labels_per_record(tmp_path: Path, bert: Path) -> None:
    texts = write_texts(tmp_path / "texts", 20, lambda number: ("cat|pet", "dog|pet", "mat")[number % 3])
    job = succeeded(train(tmp_path, texts, bert, {"multi_label": "true"}))
    assert re.search(r"^solved; .*validation:micro_f1=[0-9.]+;", job.log, re.MULTILINE)
    assert job.metrics()["validation"]["micro"]["f1"] > 0.6


def test_one_record_per_class(tmp_path: Path, bert: Path) -> None:
    texts = write_texts(tmp_path / "texts", 1)
    job = succeeded(train(tmp_path, texts, bert, {"validation_fraction": "0"}))
    assert solution_of(job)["path"] == []
    assert job.metrics()["job"]["history"][0]["train:accuracy"] == 1.0
    assert "Not cross-validated: no class has two training records." in job.log


def test_class_weights_change_the_head(tmp_path: Path, bert: Path) -> None:
    texts = write_texts(tmp_path / "texts", 20, lambda number: "dog" if number % 6 == 1 else "cat")
    recalls = []
    for weights in ("none", "balanced"):
        job = succeeded(train(tmp_path / weights, texts, bert, {"class_weights": weights}))
        recalls.append({row["label"]: row["recall"] for row in job.metrics()["validation"]["per_class"]}["dog"])
    assert recalls[0] <= recalls[1]
    assert np.isfinite(recalls).all()


def test_images_are_solved_without_augmentation(tmp_path: Path, images: Path, holdout: Path, artifact: Path) -> None:
    channels = {"train": images, "validation": holdout, "model": artifact}
    job = succeeded(run_training(tmp_path, channels, {**HEAD, "reinitialize_top_layer": "true"}))
    assert "are computed once, without augmentation" in job.log
    assert job.metrics()["validation"]["accuracy"] > 0.9
    augmented = {**HEAD, "reinitialize_top_layer": "true", "augmentation_views": "2"}
    job = succeeded(run_training(tmp_path / "views", channels, augmented))
    assert "(head_solver): augmentation_views=2 augments the images" in job.log
