"""Caching decoded images does not change a bit of a whole job."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

pytestmark = pytest.mark.slow

FULL = {"strategy": "full", "augmentation": "strong"}
FROZEN = {"strategy": "partial", "feature_cache": "off"}
OPTIONS = {"epochs": "3", "batch_size": "6"}


def job(workdir: Path, images: Path, artifact: Path, options: dict[str, str]) -> FinishedJob:
    return succeeded(run_training(workdir, {"train": images, "model": artifact}, {**OPTIONS, **options}))


@pytest.mark.parametrize("options", [FULL, FROZEN])
def test_cached_images_do_not_change_results(
    options: dict[str, str], tmp_path: Path, holdout: Path, artifact: Path
) -> None:
    cached = job(tmp_path / "kept", holdout, artifact, options)
    uncached = job(tmp_path / "anew", holdout, artifact, {**options, "cache_size_gb": "0"})
    some = job(tmp_path / "some", holdout, artifact, {**options, "cache_size_gb": "0.00003"})
    assert "are decoded once instead of in each of 3 passes" in cached.log
    assert "the cache is full" not in cached.log
    assert "are decoded in each of 3 passes: cache_size_gb is 0" in uncached.log
    assert re.search(r"Cached \d+ decoded images for training", some.log)
    for other in (uncached, some):
        assert other.weights() == cached.weights()
        assert other.metrics()["job"]["history"] == cached.metrics()["job"]["history"]
        assert other.predictions() == cached.predictions()


def test_images_and_features_are_cached_across_phases(
    tmp_path: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Counter[bool]()
    decode = ImageTransform.decode

    def counted(self: ImageTransform, content: Content, *, augmented: bool) -> Tensor:
        decoded[augmented] += 1
        return decode(self, content, augmented=augmented)

    monkeypatch.setattr(ImageTransform, "decode", counted)
    options = {"strategy": "gradual", "epochs": "14", "validation_fraction": "0"}
    cached = job(tmp_path / "kept", holdout, artifact, options)
    images = sum(1 for path in holdout.rglob("*") if path.is_file())
    # The export check decodes some images itself.
    proof = int(cached.log.partition("artifact repeats ")[2].partition(" ")[0])
    assert decoded == {False: images + proof, True: images}
    assert "are decoded twice instead of in each of" in cached.log
    decoded.clear()
    uncached = job(tmp_path / "anew", holdout, artifact, {**options, "cache_size_gb": "0"})
    assert decoded[False] > 2 * images + proof
    assert uncached.weights() == cached.weights()


def test_images_are_not_cached_if_features_are(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    assert "images    are decoded" not in job(tmp_path, holdout, artifact, {"strategy": "feature_extraction"}).log
