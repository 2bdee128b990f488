"""Caching decoded images does not change a bit of a whole job."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform
from tests.support.whole_jobs import Ended, finished, train_here

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
    assert "are decoded once instead of in each of 3 passes" in kept.log
    assert "the cache is full" not in kept.log
    assert "are decoded in each of 3 passes: cache_size_gb is 0" in anew.log
    assert re.search(r"Cached \d+ decoded images for training", some.log)
    for other in (anew, some):
        assert other.weights() == kept.weights()
        assert other.metrics()["job"]["history"] == kept.metrics()["job"]["history"]
        assert other.predictions() == kept.predictions()


def test_pictures_are_decoded_once_for_all_phases_and_kept_features_beside_them(
    tmp_path: Path, unseen: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Counter[bool]()
    decode = ImageTransform.decode

    def counted(self: ImageTransform, content: Content, *, augmented: bool) -> Tensor:
        decoded[augmented] += 1
        return decode(self, content, augmented=augmented)

    monkeypatch.setattr(ImageTransform, "decode", counted)
    wishes = {"strategy": "gradual", "epochs": "14", "validation_fraction": "0"}
    kept = job(tmp_path / "kept", unseen, network, wishes)
    pictures = sum(1 for one in unseen.rglob("*") if one.is_file())
    # The export check decodes some images itself.
    proof = int(kept.log.partition("artifact repeats ")[2].partition(" ")[0])
    assert decoded == {False: pictures + proof, True: pictures}
    assert "are decoded twice instead of in each of" in kept.log
    decoded.clear()
    anew = job(tmp_path / "anew", unseen, network, {**wishes, "cache_size_gb": "0"})
    assert decoded[False] > 2 * pictures + proof
    assert anew.weights() == kept.weights()


def test_nothing_is_kept_where_features_are(tmp_path: Path, unseen: Path, network: Path) -> None:
    assert "images    are decoded" not in job(tmp_path, unseen, network, {"strategy": "feature_extraction"}).log
