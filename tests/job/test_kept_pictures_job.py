"""Does keeping decoded pictures change a bit of a whole job?"""

from __future__ import annotations

from pathlib import Path

import pytest

from whole_jobs import Ended, finished, train_here

FULL = {"strategy": "full", "augmentation": "strong"}
FROZEN = {"strategy": "partial", "feature_cache": "off"}
WISHES = {"epochs": "3", "batch_size": "6"}


def job(place: Path, pictures: Path, network: Path, wishes: dict[str, str]) -> Ended:
    return finished(train_here(place, {"train": pictures, "model": network}, {**WISHES, **wishes}))


@pytest.mark.parametrize("wishes", [FULL, FROZEN])
def test_kept_pictures_change_no_bit(wishes: dict[str, str], tmp_path: Path, unseen: Path, network: Path) -> None:
    kept = job(tmp_path / "kept", unseen, network, wishes)
    anew = job(tmp_path / "anew", unseen, network, {**wishes, "cache_size_gb": "0"})
    some = job(tmp_path / "some", unseen, network, {**wishes, "cache_size_gb": "0.00003"})
    assert "are decoded once instead of in each of 3 epochs" in kept.log
    assert "there is no room for more" not in kept.log
    assert "are decoded in each of 3 epochs: cache_size_gb is 0" in anew.log
    assert "decoded pictures for training are kept" in some.log
    for other in (anew, some):
        assert other.weights() == kept.weights()
        assert other.metrics()["job"]["history"] == kept.metrics()["job"]["history"]
        assert other.predictions() == kept.predictions()


def test_nothing_is_kept_where_features_are(tmp_path: Path, unseen: Path, network: Path) -> None:
    assert "pictures  are decoded" not in job(tmp_path, unseen, network, {"strategy": "feature_extraction"}).log
