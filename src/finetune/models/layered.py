"""What the implementations of `Backbone` share: a module whose layer groups are given by a layout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finetune.models.backbone import LayerGroup, LoadedWeights, ModelDescription, Outputs, SplitModel
from finetune.models.heads import get_linear
from finetune.models.layer_groups import ModelLayout, layer_groups


@dataclass(frozen=True, slots=True)
class LayeredBackbone(ABC):
    """Base of classifiers with a layout; see `Backbone` for the methods.

    Attributes:
        name: name of the model.
        module: the classifier.
        expects: preprocessing of its inputs.
        weights: what was loaded into it.
        layout: paths of its stem, body and head.
    """

    name: str
    module: Any
    expects: Any
    weights: LoadedWeights
    layout: ModelLayout
    _groups: tuple[LayerGroup, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_groups", layer_groups(self.module, self.layout))

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Return the ordered partition from input to head."""
        return self._groups

    @property
    def classifier(self) -> nn.Linear:
        """The last layer of the head, which computes the logits."""
        return get_linear(self.module, self.layout.classifier)

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Run the model."""

    @abstractmethod
    def split(self, split_index: int) -> SplitModel:
        """Split the model before `layer_groups()[split_index]`."""

    @abstractmethod
    def describe(self) -> ModelDescription:
        """Return the information that the artifact needs to rebuild the model."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and all other files that the framework needs."""
