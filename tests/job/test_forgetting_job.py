"""The forgetting metric: accuracy on the given model's classes before and after training, where records have them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.coloured_images import write_images
from tests.support.whole_jobs import run_training, succeeded

pytestmark = pytest.mark.slow

SHORT = {"epochs": "2", "batch_size": "6", "augmentation": "none"}


@pytest.fixture(scope="module")
def two_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the three classes of the given model."""
    return write_images(tmp_path_factory.mktemp("two"), 8, 200, ("blue", "green"))


def test_forgetting_with_same_classes(tmp_path: Path, images: Path, holdout: Path, artifact: Path) -> None:
    channels = {"train": holdout, "validation": images, "model": artifact}
    job = succeeded(
        run_training(tmp_path / "trained", channels, {**SHORT, "strategy": "full", "learning_rate": "0.01"})
    )
    as_given = succeeded(run_training(tmp_path / "as-given", channels, {"strategy": "evaluate"}))
    metrics = job.metrics()
    forgetting = metrics["forgetting"]
    assert forgetting["before"] == as_given.metrics()["validation"]["accuracy"]
    assert forgetting["after"] == metrics["validation"]["accuracy"]
    assert (forgetting["part"], forgetting["records"], forgetting["classes"]) == (
        "validation",
        72,
        ["blue", "green", "red"],
    )
    assert "forgetting" not in as_given.metrics()
    report = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))
    assert report["forgetting"] == forgetting
    assert "<h3>Forgetting</h3>" in (job.folder.output_data / "report.html").read_text("utf-8")


@pytest.mark.parametrize("strategy", ["feature_extraction", "full"])
def test_forgetting_with_shared_classes_uses_the_original_head(
    tmp_path: Path, two_colours: Path, artifact: Path, strategy: str
) -> None:
    channels = {"train": two_colours, "validation": two_colours, "model": artifact}
    options = {**SHORT, "strategy": strategy}
    if strategy == "full":
        options |= {"learning_rate": "1", "optimizer": "sgd", "warmup_fraction": "0"}
    forgetting = succeeded(run_training(tmp_path, channels, options)).metrics()["forgetting"]
    assert forgetting["classes"] == ["blue", "green"]
    assert forgetting["records"] == 16
    assert forgetting["before"] > 0.4
    # Frozen layers forget nothing; layers trained with steps of this size do.
    assert (forgetting["after"] == forgetting["before"]) == (strategy == "feature_extraction")


def test_no_forgetting_without_shared_classes(tmp_path: Path, two_colours: Path, artifact: Path) -> None:
    for name, other in (("blue", "sky"), ("green", "grass")):
        shutil.copytree(two_colours / name, tmp_path / "train" / other)
    options = {**SHORT, "strategy": "feature_extraction"}
    job = succeeded(run_training(tmp_path / "job", {"train": tmp_path / "train", "model": artifact}, options))
    assert "forgetting" not in job.metrics()
