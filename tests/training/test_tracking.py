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
class ConstantInputs:
    """The same inputs in every phase."""

    inputs: PhaseInputs
    records: Batches

    def training(self, phase: Phase) -> PhaseInputs:
        return self.inputs


@pytest.mark.parametrize("single_threaded", [False, True])
def test_debugged_inputs_change_only_the_forward_pass(single_threaded: bool) -> None:
    batches = tiny_batches(TinyReader(4), training=True)
    inputs = PhaseInputs(batches, forward, single_threaded)
    debugged = DebuggedInputs(ConstantInputs(inputs, batches), NoDebugger())
    assert replace(debugged.training(Phase(0, ("head",))), forward=forward) == inputs
