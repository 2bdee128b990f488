"""A store that loads another's state returns the same features, as far as it has room."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.features.store import BAD, UNKNOWN, FeatureStore, StoreLimits

ROOM = StoreLimits(10**6)
PADDING = {"activation": 0.0, "attention_mask": 0.0}
ENTRIES = 6


def pictures() -> dict[str, Tensor]:
    return {"activation": torch.randn(ENTRIES, 4, 3, 3).contiguous(memory_format=torch.channels_last)}


def texts() -> dict[str, Tensor]:
    mask = (torch.arange(5) < torch.tensor([5, 1, 3, 2, 4, 2]).unsqueeze(1)).long()
    return {"activation": torch.randn(ENTRIES, 5, 7) * mask.unsqueeze(2), "attention_mask": mask}


def storage(features: Mapping[str, Tensor], place: StoreLimits = ROOM) -> FeatureStore:
    padded = "attention_mask" in features
    return FeatureStore(ENTRIES, place, PADDING if padded else {}, 5 if padded else 1)


@pytest.mark.parametrize("features", [pictures(), texts()], ids=["pictures", "texts"])
@pytest.mark.parametrize("room", [10**6, 500, 0])
def test_what_fits_is_the_same(features: dict[str, Tensor], room: int) -> None:
    before, after = storage(features), storage(features, StoreLimits(room))
    before.put(np.arange(ENTRIES), features)
    count = after.load(before.state())
    kept = np.flatnonzero(after.kept(np.arange(ENTRIES)))
    assert len(kept) == count
    assert (count == ENTRIES) == (room == 10**6)
    assert (count == 0) == (room == 0)
    if count:
        ours, theirs = after.gather(kept), before.gather(kept)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert all(ours[name].stride() == theirs[name].stride() for name in theirs)


def test_what_is_not_known_yet_is_kept_behind_what_is_taken_up() -> None:
    features = pictures()
    before, after = storage(features), storage(features)
    before.put(np.arange(4), {name: value[:4] for name, value in features.items()})
    before.lengths[4] = BAD
    assert after.load(before.state()) == 4
    assert after.lengths[4:].tolist() == [UNKNOWN, UNKNOWN]
    assert after.put(np.arange(4, 6), {name: value[4:] for name, value in features.items()}) == 2
    assert torch.equal(after.gather(np.arange(6))["activation"], features["activation"])


def test_a_state_of_other_records_is_refused() -> None:
    given = storage(pictures())
    given.put(np.arange(ENTRIES), pictures())
    state = given.state()
    for other in (FeatureStore(ENTRIES + 1, ROOM, {}), FeatureStore(ENTRIES, ROOM, PADDING, 5)):
        with pytest.raises(ValueError, match="not about these records"):
            other.load(state)
    for broken in ({}, {"rows/activation": torch.ones(6, 4)}):
        with pytest.raises(ValueError, match="not about these records"):
            storage(pictures()).load(broken)
