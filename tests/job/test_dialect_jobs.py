"""Jobs requested in the dialect of another tool: plan, metric lines in real logs, and the answers of the artifact."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from finetune.export.handler import load_handler
from tests.support.published_requests import METRIC_DEFINITIONS
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

DEFINITIONS = dict(METRIC_DEFINITIONS)


@pytest.fixture(scope="module")
def mxnet(tmp_path_factory: pytest.TempPathFactory, images: Path, holdout: Path, artifact: Path) -> FinishedJob:
    """Transfer learning as requested from Image Classification - MXNet, from an earlier model."""
    request = {"num_layers": "18", "image_shape": "3,32,32", "mini_batch_size": "8", "use_pretrained_model": "1"}
    request |= {"learning_rate": "0.001", "epochs": "2", "num_classes": "3", "num_training_samples": "72"}
    channels = {"train": images, "validation": holdout, "model": artifact}
    return succeeded(run_training(tmp_path_factory.mktemp("mxnet"), channels, request))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, images: Path, holdout: Path) -> FinishedJob:
    """A request of a script for the Trainer, for 12 steps of 8 of the 72 images."""
    request = {"per_device_train_batch_size": "8", "max_steps": "12", "warmup_steps": "2", "learning_rate": "0.001"}
    request |= {"model_name": "resnet18", "image_size": "32", "strategy": "from_scratch", "hub_token": "hf_verysecret"}
    request |= {"metric_for_best_model": "eval_f1"}
    return succeeded(run_training(tmp_path_factory.mktemp("trainer"), {"train": images, "test": holdout}, request))


@pytest.mark.parametrize(
    ("job", "regex"),
    [
        *(("mxnet", regex) for regex in DEFINITIONS["mxnet_image_classification"]),
        *(("trainer", regex) for regex in DEFINITIONS["huggingface"]),
    ],
)
def test_published_expressions_find_values_in_a_real_log(job: str, regex: str, request: pytest.FixtureRequest) -> None:
    finished: FinishedJob = request.getfixturevalue(job)
    values = [float(match[1]) for line in finished.log.splitlines() if (match := re.search(regex, line))]
    assert values
    if "accuracy" in regex and "rain" not in regex:
        assert values[-1] == pytest.approx(finished.metrics()["validation"]["accuracy"], abs=1e-6)


def test_the_plan_lists_the_defaults_of_the_tool(mxnet: FinishedJob) -> None:
    (line,) = [line for line in mxnet.log.splitlines() if line.startswith("  dialect ")]
    assert "Image Classification - MXNet (recognized by image_shape, mini_batch_size, num_layers," in line
    assert "optimizer=sgd, head_learning_rate=0.001, layer_decay=1, momentum=0.9, weight_decay=0.0001" in line
    assert "sgd, constant schedule" in mxnet.log


def test_the_artifact_answers_in_the_form_of_the_tool(mxnet: FinishedJob, holdout: Path) -> None:
    assert mxnet.artifact()["dialect"] == "mxnet_image_classification"
    handler = load_handler(mxnet.folder.model)
    image = next(path for path in sorted(holdout.rglob("*")) if path.is_file()).read_bytes()
    predictions = handler.predict_fn(
        handler.input_fn(image, "application/x-image"), handler.model_fn(str(mxnet.folder.model))
    )
    result = json.loads(handler.output_fn(predictions, "application/json"))
    assert len(result) == 3
    assert sum(result) == pytest.approx(1, abs=1e-5)


def test_steps_of_the_trainer_end_within_an_epoch(trainer: FinishedJob) -> None:
    job = trainer.metrics()["job"]
    assert (job["steps"], job["epochs"], len(job["history"])) == (12, 2, 2)
    assert "steps     12: 2 epochs of 9" in trainer.log


def test_the_channel_test_is_evaluated_after_every_epoch(trainer: FinishedJob) -> None:
    assert len(re.findall(r"'eval_accuracy'", trainer.log)) == 3  # two epochs, and the exported weights
    assert "verysecret" not in trainer.log
