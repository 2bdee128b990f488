"""Incomplete models are rejected by name with exit code 1, never evaluated with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torchvision.models import get_model

from tests.support.coloured_images import COLORS
from tests.support.tiny_transformers import WORDS, write_folder
from tests.support.whole_jobs import run_training, succeeded

EVALUATE = {"strategy": "evaluate"}
NAME = "mobilenet_v3_small"
WEIGHTS = "model.safetensors"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    halves = {"neg": WORDS[4:9], "pos": WORDS[9:14]}
    rows = [f"{label},{word} {other}" for label, words in halves.items() for word in words for other in WORDS[4:7]]
    (folder / "rows.csv").write_text("\n".join(["label,text", *rows]) + "\n")
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=("neg", "pos"))


def refusal(workdir: Path, channels: dict[str, Path], hyperparameters: dict[str, str]) -> str:
    job = run_training(workdir, channels, hyperparameters)
    assert job.exit_code == 1, job.log
    assert len(job.failure) <= 1024
    assert "Traceback" not in job.failure
    return job.failure


@pytest.mark.parametrize(
    ("missing", "cause"),
    [
        ("classifier.bias", "top layer of the weights is incomplete: classifier.bias is missing"),
        ("bert.pooler.dense.weight", "top layer of the weights is incomplete: bert.pooler.dense.weight is missing"),
        ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.weight is missing"),
    ],
)
def test_text_model_with_missing_tensor_is_not_evaluated(
    missing: str, cause: str, tmp_path: Path, bert: Path, texts: Path
) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(bert / WEIGHTS).items() if name != missing}
    save_file(state, bert / WEIGHTS, metadata={"format": "pt"})
    assert cause in refusal(tmp_path / "job", {"test": texts, "model": bert}, EVALUATE)


def test_model_with_contradictory_classes_is_not_evaluated(tmp_path: Path, bert: Path, texts: Path) -> None:
    three = write_folder(tmp_path / "three", "bert", labels=("a", "b", "c"))
    shutil.copyfile(three / WEIGHTS, bert / WEIGHTS)
    cause = refusal(tmp_path / "job", {"test": texts, "model": bert}, EVALUATE)
    assert "config.json in the model channel has 2 classes, but classifier.weight has 3 rows" in cause


def test_image_model_without_head_bias_is_not_evaluated(tmp_path: Path, holdout: Path) -> None:
    (tmp_path / "model").mkdir()
    state = get_model(NAME, weights=None, num_classes=len(COLORS)).state_dict()
    del state["classifier.3.bias"]
    save_file(state, tmp_path / "model" / f"{NAME}.safetensors")
    cause = refusal(tmp_path / "job", {"test": holdout, "model": tmp_path / "model"}, EVALUATE)
    assert "top layer of the weights is incomplete: classifier.3.bias is missing" in cause


def test_a_new_head_on_a_new_pooler_is_named_in_plan_and_log(tmp_path: Path, bert: Path, texts: Path) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(bert / WEIGHTS).items() if "pooler" not in name}
    save_file(state, bert / WEIGHTS, metadata={"format": "pt"})
    hyperparameters = {"epochs": "1", "strategy": "feature_extraction"}
    job = succeeded(run_training(tmp_path / "job", {"train": texts, "model": bert}, hyperparameters))
    named = "bert.pooler.dense.bias, bert.pooler.dense.weight"
    assert f"new head, newly initialized: {named}" in job.log
    assert f"besides the classifier, which are newly initialized: {named}" in job.log
    assert "WARNING: The top layer of the weights is incomplete and is replaced by a new one" in job.log


@pytest.mark.parametrize("absolute", [True, False])
def test_index_with_outside_paths_is_refused(absolute: bool, tmp_path: Path, bert: Path, texts: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(bert / WEIGHTS).items()}
    (bert / WEIGHTS).rename(outside)
    name = str(outside) if absolute else "../outside.safetensors"
    (bert / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, name)}))
    cause = refusal(tmp_path / "job", {"test": texts, "model": bert}, EVALUATE)
    assert f"{WEIGHTS}.index.json in the model channel refers to a file outside its folder: '{name[:80]}'" in cause
