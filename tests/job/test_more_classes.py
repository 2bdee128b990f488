"""Training an earlier model further with more, fewer, renamed or other classes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.job import run as stages
from finetune.job.log_observer import LogObserver
from finetune.training.saved_state.state import TrainingState
from sagemaker_simulator import lay_out
from tests.support.coloured_images import COLORS, encode_image, make_image
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import FinishedJob, build_request, run_request, run_training, succeeded

pytestmark = pytest.mark.slow

SHORT = {"epochs": "1", "batch_size": "6", "augmentation": "none"}
SEVERAL = {"superset": "amber,blue,green,red,violet", "subset": "green,red", "renamed": "blue,grass,red"}
SEVERAL |= {"disjoint": "amber,violet", "overlapping": "amber,blue,violet"}


def write_classes(folder: Path, names: list[str], per_class: int = 6) -> Path:
    """Write one folder per class; classes that the model does not know reuse images of a known one."""
    colors = list(COLORS)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            colour = name if name in COLORS else colors[index % 3]
            image = encode_image(make_image(colour, 400 + number + 50 * index))
            (folder / name / f"{number}.png").write_bytes(image)
    return folder


def assert_right(job: FinishedJob, names: list[str], earlier_names: list[str]) -> None:
    """The model has the classes of the data, and forgetting is measured on the classes that it knew."""
    succeeded(job)
    assert job.artifact()["labels"] == names
    assert job.metrics()["job"]["finished"]
    assert "was skipped" not in job.log
    if not earlier_names:
        assert "forgetting" not in job.metrics()
        return
    forgetting = job.metrics()["forgetting"]
    assert forgetting["classes"] == earlier_names
    rows = job.predictions()
    assert forgetting["records"] == sum(row["label"] in earlier_names for row in rows)
    assert 0 <= forgetting["after"] <= 1


@pytest.mark.parametrize("strategy", ["feature_extraction", "partial", "full", "gradual"])
def test_additional_classes_work_with_every_strategy(tmp_path: Path, artifact: Path, strategy: str) -> None:
    names = SEVERAL["superset"].split(",")
    train, test = write_classes(tmp_path / "train", names), write_classes(tmp_path / "validation", names, 3)
    channels = {"train": train, "validation": test, "model": artifact}
    job = run_training(tmp_path / "job", channels, {**SHORT, "strategy": strategy})
    assert_right(job, names, list(COLORS))
    assert job.metrics()["forgetting"]["records"] == 9
    assert job.metrics()["forgetting"]["before"] > 0.8


@pytest.mark.parametrize("kind", ["subset", "renamed", "disjoint", "overlapping"])
def test_different_classes_work(tmp_path: Path, artifact: Path, kind: str) -> None:
    names = SEVERAL[kind].split(",")
    channels = {"train": write_classes(tmp_path / "train", names), "model": artifact}
    job = run_training(tmp_path / "job", channels, {**SHORT, "strategy": "full"})
    assert_right(job, names, [name for name in names if name in COLORS])


def test_reordered_classes_keep_their_outputs(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"strategy": "evaluate", "class_names": "red,blue,green"}
    plain = succeeded(run_training(tmp_path / "plain", {"test": holdout, "model": artifact}, {"strategy": "evaluate"}))
    other = succeeded(run_training(tmp_path / "other", {"test": holdout, "model": artifact}, options))
    assert other.metrics()["test"]["accuracy"] == plain.metrics()["test"]["accuracy"] > 0.9
    options = {**SHORT, "strategy": "feature_extraction", "class_names": "red,blue,green", "learning_rate": "1e-9"}
    channels = {"train": holdout, "validation": holdout, "model": artifact}
    job = succeeded(run_training(tmp_path / "further", channels, options))
    assert job.artifact()["labels"] == ["red", "blue", "green"]
    assert job.metrics()["forgetting"]["before"] == job.metrics()["validation"]["accuracy"] > 0.9


@pytest.mark.parametrize("strategy", ["feature_extraction", "full"])
def test_additional_classes_work_without_class_names(tmp_path: Path, artifact: Path, strategy: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(load_file(artifact / "model.safetensors"), folder / "resnet18.pth")
    names = SEVERAL["superset"].split(",")
    options = {**SHORT, "strategy": strategy, "image_size": "32"}
    channels = {"train": write_classes(tmp_path / "train", names), "model": folder}
    assert_right(run_training(tmp_path / "job", channels, options), names, [])


def write_texts(folder: Path, labels: list[str], *, several: bool = False) -> Path:
    folder.mkdir()
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "text"])
        for number in range(8):
            for index, label in enumerate(labels):
                both = f"{label}|{labels[index - 1]}" if several and number % 2 else label
                rows.writerow([both, f"the cat sat on the mat {label} {number}"])
    return folder


@pytest.mark.parametrize("strategy", ["feature_extraction", "partial", "full"])
def test_additional_classes_work_with_text_model(tmp_path: Path, strategy: str) -> None:
    model = write_folder(tmp_path / "bert", "bert", labels=("neg", "pos"))
    train = write_texts(tmp_path / "train", ["mid", "neg", "pos", "zero"])
    job = run_training(tmp_path / "job", {"train": train, "model": model}, {**SHORT, "strategy": strategy})
    assert_right(job, ["mid", "neg", "pos", "zero"], ["neg", "pos"])


def test_additional_labels_work_with_multi_label_model(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "bert", "bert", labels=("neg", "pos"))
    options = {**SHORT, "strategy": "full", "multi_label": "true"}
    two = write_texts(tmp_path / "two", ["neg", "pos"], several=True)
    first = succeeded(run_training(tmp_path / "first", {"train": two, "model": model}, options))
    more = write_texts(tmp_path / "more", ["mid", "neg", "pos"], several=True)
    job = run_training(tmp_path / "job", {"train": more, "model": first.folder.model}, options)
    assert_right(job, ["mid", "neg", "pos"], [])
    assert job.artifact()["multi_label"]


@pytest.mark.parametrize("stage", ["training", "evaluate_parts", "export_and_verify", "write_results"])
def test_killed_job_with_additional_classes_resumes_to_same_model(
    tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    names = SEVERAL["superset"].split(",")
    options = {**SHORT, "strategy": "full", "checkpoint_interval_steps": "2"}
    request = build_request({"train": write_classes(tmp_path / "train", names), "model": artifact}, options)
    whole = succeeded(run_request(lay_out(tmp_path / "whole", request)))
    folder = lay_out(tmp_path / "opt-ml", request)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def killed_in_training(observer: LogObserver, state: TrainingState, loss: torch.Tensor) -> None:
        if state.progress.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if stage == "training":
            patched.setattr(LogObserver, "step_done", killed_in_training)
        else:
            patched.setattr(stages, stage, killed)
        assert run_request(folder).exit_code == 3
    assert (folder.model / "model.safetensors").is_file() == (stage == "write_results")
    shutil.rmtree(folder.model)
    job = run_request(folder)
    assert_right(job, names, list(COLORS))
    assert "Resumed from checkpoint" in job.log
    assert f"checkpoints in {folder.root / 'checkpoints'}: every 2 steps, at most every 30 s, " in job.log
    assert job.weights() == whole.weights()
    assert job.metrics()["forgetting"] == whole.metrics()["forgetting"]


def test_forgetting_counts_records_of_original_classes(tmp_path: Path, artifact: Path) -> None:
    shrunk = shutil.copytree(artifact, tmp_path / "network")
    weights = load_file(shrunk / "model.safetensors")
    # A head that always predicts 'red': correct for a third of its classes' records, whatever the others are.
    weights["fc.weight"] *= 0
    weights["fc.bias"] = torch.tensor([0.0, 0.0, 9.0])
    save_file(weights, shrunk / "model.safetensors", metadata={"format": "pt"})
    names = SEVERAL["superset"].split(",")
    data = write_classes(tmp_path / "data", names, 4)
    channels = {"train": data, "validation": data, "model": shrunk}
    job = succeeded(run_training(tmp_path / "job", channels, {**SHORT, "strategy": "feature_extraction"}))
    forgetting = job.metrics()["forgetting"]
    assert (forgetting["records"], forgetting["before"], forgetting["after"]) == (12, 4 / 12, 4 / 12)
