"""Odd but ordinary data is either learned from or rejected with the cause, never an internal error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune.evaluation.predict import Pass, Predictions, predict
from finetune.job import export_check as proof
from finetune.job.loaders import PROBE_RECORDS
from finetune.models.backbone import Backbone
from finetune.training.inputs import Source
from tests.support.coloured_images import COLOURS, write_pictures
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import Ended, finished, train_here

HEAD = {"strategy": "feature_extraction", "epochs": "1", "validation_fraction": "0"}
TEXTS = {"strategy": "feature_extraction", "epochs": "1", "batch_size": "4", "max_length": "16"}


def lines(place: Path, *rows: object) -> Path:
    place.mkdir(parents=True)
    (place / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return place


def pairs(place: Path, count: int, **more: str) -> Path:
    rows = ({"text": f"cat {number}", "label": ("no", "yes")[number % 2], **more} for number in range(count))
    return lines(place, *rows)


def texts(place: Path, channels: dict[str, Path], **wishes: str) -> Ended:
    return train_here(place / "job", {"model": write_folder(place / "bert", "bert"), **channels}, {**TEXTS, **wishes})


def damage(folder: Path, count: int) -> None:
    """Make the first `count` images unreadable, in channel order."""
    for path in sorted(folder.rglob("*.png"))[:count]:
        path.write_bytes(b"no picture")


def test_a_job_that_can_read_no_record_learns_nothing_and_says_so(tmp_path: Path, network: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 3)
    damage(pictures, 9)
    job = train_here(tmp_path / "job", {"train": pictures, "model": network}, {**HEAD, "max_bad_records": "99"})
    assert job.exit_code == 1
    assert job.failure.startswith("Nothing was learnt from in epoch 1: no training record can be read")


def test_the_artifact_is_proven_by_the_records_that_can_be_read(tmp_path: Path, network: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", PROBE_RECORDS + 2)
    damage(pictures, PROBE_RECORDS + 1)
    job = finished(
        train_here(tmp_path / "job", {"train": pictures, "model": network}, {**HEAD, "max_bad_records": "9"})
    )
    assert f"repeats {PROBE_RECORDS} predictions" in job.log


def test_predictions_that_are_not_finite_fail_the_export_check(
    tmp_path: Path, unseen: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(backbone: Backbone, source: Source, how: Pass) -> Predictions | None:
        found = predict(backbone, source, how)
        return found and replace(found, probabilities=np.full_like(found.probabilities, np.nan))

    monkeypatch.setattr(proof, "predict", broken)
    job = train_here(tmp_path / "job", {"train": unseen, "model": network}, HEAD)
    assert job.exit_code == 1
    assert "outputs of the model are not finite" in job.failure
    assert not (job.folder.model / "artifact.json").exists()


@pytest.mark.parametrize("size", ["16", "32"])
def test_small_pictures_are_the_same_bits_twice(tmp_path: Path, unseen: Path, size: str) -> None:
    wishes = {
        "model_name": "resnet18",
        "strategy": "from_scratch",
        "epochs": "1",
        "image_size": size,
        "batch_size": "8",
    }
    first, second = (finished(train_here(tmp_path / name, {"train": unseen}, wishes)) for name in ("first", "second"))
    assert first.weights() == second.weights()


def test_names_of_classes_are_for_networks_that_are_evaluated_too(tmp_path: Path, network: Path) -> None:
    numbered = write_pictures(tmp_path / "numbered", 3, first=300)
    labels = json.loads((network / "artifact.json").read_text("utf-8"))["labels"]
    for number, name in enumerate(labels):
        (numbered / name).rename(numbered / str(number))
    wishes = {"strategy": "evaluate", "class_names": ",".join(labels)}
    job = finished(train_here(tmp_path / "job", {"test": numbered, "model": network}, wishes))
    assert job.metrics()["test"]["accuracy"] > 0.9
    assert job.artifact()["labels"] == list(COLOURS)


def test_a_network_that_is_evaluated_keeps_its_length_and_its_thresholds(tmp_path: Path) -> None:
    table = pairs(tmp_path / "table", 40)
    wishes = {**TEXTS, "target_recall": "0.9"}
    first = finished(texts(tmp_path / "first", {"train": table}, **wishes))
    again = finished(
        train_here(tmp_path / "again", {"test": table, "model": first.folder.model}, {"strategy": "evaluate"})
    )
    for name in ("thresholds", "preprocessing"):
        assert again.artifact()[name] == first.artifact()[name]
    assert first.artifact()["preprocessing"]["max_length"] == 16


def test_channels_with_one_and_with_two_texts_are_refused(tmp_path: Path) -> None:
    channels = {
        "train": pairs(tmp_path / "train", 12, text_pair="mat"),
        "validation": pairs(tmp_path / "validation", 6),
    }
    job = texts(tmp_path, channels)
    assert job.exit_code == 1
    assert "'train' has 2, 'validation' has 1" in job.failure


def test_the_label_is_never_taken_for_a_text(tmp_path: Path) -> None:
    job = texts(tmp_path, {"train": pairs(tmp_path / "train", 12)}, text_pair_column="label")
    assert job.exit_code == 1
    assert "label" in job.failure


def test_an_object_that_lacks_a_column_does_not_decide_on_all(tmp_path: Path) -> None:
    rows = [{"text": f"cat {number}", "label": ("no", "yes")[number % 2]} for number in range(12)]
    table = lines(tmp_path / "table", {"id": "7"}, *rows)
    job = finished(texts(tmp_path, {"train": table}, max_bad_records="1"))
    assert job.artifact()["labels"] == ["no", "yes"]


def test_a_label_that_no_file_can_hold_is_refused_before_training(tmp_path: Path) -> None:
    table = lines(tmp_path / "table", *({"text": "cat", "label": f"{one}\ud800"} for one in "abab"))
    job = texts(tmp_path, {"train": table})
    assert job.exit_code == 1
    assert "the label holds half of a surrogate pair" in job.failure


def test_a_folder_of_an_artifact_may_be_the_models_name(tmp_path: Path, unseen: Path, network: Path) -> None:
    wishes = {"strategy": "evaluate", "model_name": str(network)}
    assert "resnet18" in finished(train_here(tmp_path / "job", {"test": unseen}, wishes)).log
