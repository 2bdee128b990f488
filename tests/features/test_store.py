"""A store that loads another's state returns the same features, as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.features.store import BAD, NOT_CACHED, FeatureStore, StoreLimits

LIMITS = StoreLimits(10**6)
PADDING = {"activation": 0.0, "attention_mask": 0.0}
ENTRIES = 6


def images() -> dict[str, Tensor]:
    return {"activation": torch.randn(ENTRIES, 4, 3, 3).contiguous(memory_format=torch.channels_last)}


def texts() -> dict[str, Tensor]:
    mask = (torch.arange(5) < torch.tensor([5, 1, 3, 2, 4, 2]).unsqueeze(1)).long()
    return {"activation": torch.randn(ENTRIES, 5, 7) * mask.unsqueeze(2), "attention_mask": mask}


def make_store(features: Mapping[str, Tensor], limits: StoreLimits = LIMITS) -> FeatureStore:
    padded = "attention_mask" in features
    return FeatureStore(ENTRIES, limits, PADDING if padded else {}, 5 if padded else 1)


@pytest.mark.parametrize("features", [images(), texts()], ids=["images", "texts"])
@pytest.mark.parametrize("memory_bytes", [10**6, 500, 0])
def test_restored_entries_are_identical(features: dict[str, Tensor], memory_bytes: int) -> None:
    before, after = make_store(features), make_store(features, StoreLimits(memory_bytes))
    before.put(np.arange(ENTRIES), features)
    count = after.load_state_dict(before.state_dict())
    cached = np.flatnonzero(after.is_cached(np.arange(ENTRIES)))
    assert len(cached) == count
    assert (count == ENTRIES) == (memory_bytes == 10**6)
    assert (count == 0) == (memory_bytes == 0)
    if count:
        gathered, expected = after.gather(cached), before.gather(cached)
        assert all(torch.equal(gathered[name], expected[name]) for name in expected)
        assert all(gathered[name].stride() == expected[name].stride() for name in expected)


def test_new_entries_are_added_to_restored_ones() -> None:
    features = images()
    before, after = make_store(features), make_store(features)
    before.put(np.arange(4), {name: value[:4] for name, value in features.items()})
    before.lengths[4] = BAD
    assert after.load_state_dict(before.state_dict()) == 4
    assert after.lengths[4:].tolist() == [NOT_CACHED, NOT_CACHED]
    assert after.put(np.arange(4, 6), {name: value[4:] for name, value in features.items()}) == 2
    assert torch.equal(after.gather(np.arange(6))["activation"], features["activation"])


def test_state_of_other_records_is_refused() -> None:
    source = make_store(images())
    source.put(np.arange(ENTRIES), images())
    state = source.state_dict()
    for other_store in (FeatureStore(ENTRIES + 1, LIMITS, {}), FeatureStore(ENTRIES, LIMITS, PADDING, 5)):
        with pytest.raises(ValueError, match="of other records"):
            other_store.load_state_dict(state)
    for invalid_state in ({}, {"rows/activation": torch.ones(6, 4)}):
        with pytest.raises(ValueError, match="of other records"):
            make_store(images()).load_state_dict(invalid_state)
