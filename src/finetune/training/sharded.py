"""Training of a model that is sharded over all processes, of which all make the same number of passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from finetune.distributed.sharding.sharded_model import ShardedModel


@dataclass(frozen=True, slots=True)
class ShardedTraining:
    """A sharded model, and inputs for the passes of a process that has no batch while others have one.

    Attributes:
        model: The model; its frozen layers are whole.
        records: Inputs of the whole model for two made-up records, on its device.
        features: The same records as inputs of the layers after the frozen ones.
    """

    model: ShardedModel
    records: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
