"""Paths become channels, and the parts of a data set that has been split are recognized."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.local.channels import ModelChoice, choose_model, find_channels


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("cat", "dog"), {"train": ""}),
        (("train", "val", "test"), {"train": "train", "validation": "val", "test": "test"}),
        (("Training", "testing"), {"train": "Training", "test": "testing"}),
        (("train", "test", "other"), {"train": ""}),
        (("test", "val"), {"train": ""}),
        (("train",), {"train": ""}),
    ],
)
def test_splits_of_a_folder(tmp_path: Path, folders: tuple[str, ...], expected: dict[str, str]) -> None:
    make(tmp_path, *folders)
    assert find_channels(tmp_path, {}) == {name: tmp_path / path for name, path in expected.items()}


def test_splits_as_files_and_given_channels(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("text,label\n", encoding="utf-8")
    other = make(tmp_path.parent / f"{tmp_path.name}-other")
    assert find_channels(tmp_path, {"test": None})["test"] == tmp_path / "test.csv"
    channels = find_channels(tmp_path, {"test": tmp_path / "train.csv", "labels": tmp_path / "test.csv"})
    assert channels["test"] == tmp_path / "train.csv"
    assert channels["labels"] == tmp_path / "test.csv"
    with pytest.raises(UserError, match=f"validation={other}: there is no such file"):
        find_channels(tmp_path, {"validation": other})


def test_models_are_names_or_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path, "run/model", "weights"))
    (tmp_path / "run" / "model" / "artifact.json").touch()
    assert choose_model(None) == ModelChoice()
    assert choose_model("resnet50") == ModelChoice(name="resnet50")
    assert choose_model("owner/name") == ModelChoice(name="owner/name")
    assert choose_model("run") == ModelChoice(path=tmp_path / "run" / "model")
    assert choose_model("weights") == ModelChoice(path=tmp_path / "weights")
    with pytest.raises(UserError, match="there is no such file or folder"):
        choose_model("model.tar.gz")
