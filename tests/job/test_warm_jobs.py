"""A job gives the same bits with matching, other or no saved features of an earlier job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune.features.reuse.warm_pool import FOLDER
from finetune.sagemaker.paths import WARM_POOL
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

pytestmark = pytest.mark.slow

FOUND = re.compile(r"Loaded (\d+) of (\d+) cached features for \w+")
SAVED = re.compile(r"Saved \d+ features of")
HEAD = {"strategy": "feature_extraction", "epochs": "2", "batch_size": "6"}
VIEWS = {"strategy": "partial", "epochs": "4", "batch_size": "6", "augmentation_views": "2"}
GRADUAL = {"strategy": "gradual", "epochs": "12", "batch_size": "6", "augmentation": "none"}


def cached_features(job: FinishedJob) -> list[tuple[int, int]]:
    """Cached features loaded from an earlier job and total features, by split."""
    return [(int(left), int(of)) for left, of in FOUND.findall(job.log)]


def run(workdir: Path, channels: Mapping[str, Path], options: Mapping[str, str]) -> FinishedJob:
    return succeeded(run_training(workdir, channels, options))


def assert_same(first: FinishedJob, second: FinishedJob) -> None:
    assert first.weights() == second.weights()
    assert first.metrics()["job"]["history"] == second.metrics()["job"]["history"]
    assert first.predictions() == second.predictions()


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    monkeypatch.setenv(WARM_POOL, str(folder))
    return folder


@pytest.mark.parametrize("options", [HEAD, VIEWS, GRADUAL])
def test_warm_pool_does_not_change_results(
    options: dict[str, str], tmp_path: Path, pool: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = {"train": holdout, "model": artifact}
    cold = run(tmp_path / "cold", channels, options)
    warm = run(tmp_path / "warm", channels, options)
    monkeypatch.delenv(WARM_POOL)
    none = run(tmp_path / "none", channels, options)
    assert cached_features(none) == []
    assert cached_features(cold)
    assert all(left == 0 for left, _ in cached_features(cold))
    assert [left for left, _ in cached_features(warm)] == [of for _, of in cached_features(cold)]
    assert SAVED.search(cold.log)
    assert not SAVED.search(warm.log)
    assert_same(warm, cold)
    assert_same(none, cold)


def test_warm_pool_key_depends_on_images_but_not_learning_rate(
    tmp_path: Path, pool: Path, holdout: Path, artifact: Path
) -> None:
    channels = {"train": holdout, "validation": holdout, "model": artifact}
    run(tmp_path / "first", channels, VIEWS)
    rate = run(tmp_path / "rate", channels, {**VIEWS, "learning_rate": "0.01"})
    assert all(left == of for left, of in cached_features(rate))
    (train, of), (validation, _) = cached_features(run(tmp_path / "seed", channels, {**VIEWS, "seed": "1"}))
    assert (train, validation) == (0, of // 2)
    changed = tmp_path / "changed"
    shutil.copytree(holdout, changed)
    images = sorted(path for path in changed.rglob("*") if path.suffix in {".png", ".jpg"})
    images[0].write_bytes(images[-1].read_bytes())
    (train, _), (validation, _) = cached_features(run(tmp_path / "other", {**channels, "train": changed}, VIEWS))
    assert (train, validation) == (0, of // 2)


def test_damaged_features_are_recomputed(tmp_path: Path, pool: Path, holdout: Path, artifact: Path) -> None:
    channels = {"train": holdout, "model": artifact}
    cold = run(tmp_path / "cold", channels, HEAD)
    for path in (pool / FOLDER).rglob("features.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(bytes(content))
    repeated = run(tmp_path / "again", channels, HEAD)
    assert all(left == 0 for left, _ in cached_features(repeated))
    assert_same(repeated, cold)
    assert all(left == of for left, of in cached_features(run(tmp_path / "warm", channels, HEAD)))


def test_bad_images_are_reported_again(tmp_path: Path, pool: Path, holdout: Path, artifact: Path) -> None:
    channel = tmp_path / "train"
    shutil.copytree(holdout, channel)
    images = sorted(path for path in channel.rglob("*") if path.suffix in {".png", ".jpg"})
    images[0].write_bytes(b"no picture")
    channels, options = {"train": channel, "validation": holdout, "model": artifact}, {**HEAD, "max_bad_records": "1"}
    cold, warm = (run(tmp_path / name, channels, options) for name in ("cold", "warm"))
    (left, of), _ = cached_features(warm)
    assert left == of - 1
    assert_same(warm, cold)
    listed = [(job.folder.output_data / "bad_records.json").read_bytes() for job in (cold, warm)]
    assert listed[0] == listed[1]
