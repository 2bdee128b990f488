"""Inputs watched by the debugger are otherwise unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from torch import Tensor

from finetune.data.loading.batches import Batches
from finetune.models.backbone import Outputs
from finetune.monitoring.debugger import NoDebugger
from finetune.strategies.plan import Phase
from finetune.training.inputs import PhaseInputs
from finetune.training.observers.tracking import DebuggedInputs
from tests.support.tiny import TinyReader, tiny_batches


def forward(inputs: Mapping[str, Tensor]) -> Outputs:
    return Outputs(inputs["pixels"])


@dataclass(frozen=True)
class One:
    """The same inputs in every phase."""

    feed: PhaseInputs
    records: Batches

    def training(self, phase: Phase) -> PhaseInputs:
        return self.feed


@pytest.mark.parametrize("alone", [False, True])
def test_only_the_pass_is_looked_at(alone: bool) -> None:
    batches = tiny_batches(TinyReader(4), training=True)
    feed = PhaseInputs(batches, forward, alone)
    looked_at = DebuggedInputs(One(feed, batches), NoDebugger())
    assert replace(looked_at.training(Phase(0, ("head",))), forward=forward) == feed
