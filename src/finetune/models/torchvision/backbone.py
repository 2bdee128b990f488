"""`Backbone` for torchvision classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finetune.models.backbone import Description, ImageInput, LayerGroup, LoadedWeights, Outputs, SplitModel
from finetune.models.layer_groups import ModelLayout, layer_groups
from finetune.models.preprocessing import Normaliser
from finetune.models.splitting.split_model import split_image_model
from finetune.models.weights.state_files import write_weights


@dataclass(frozen=True, slots=True)
class TorchvisionBackbone:
    """A torchvision classifier; implements `Backbone`.

    Attributes:
        anatomy: paths of its stem, body and head.
        arguments: keyword arguments with which `torchvision.models.get_model(name, **arguments)` builds the same model.
    """

    name: str
    module: nn.Module
    expects: ImageInput
    weights: LoadedWeights
    anatomy: ModelLayout
    arguments: Mapping[str, object]
    _normalise: Normaliser = field(init=False, repr=False)
    _groups: tuple[LayerGroup, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_normalise", Normaliser(self.expects))
        object.__setattr__(self, "_groups", layer_groups(self.module, self.anatomy))

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Return the ordered partition from input to head."""
        return self._groups

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Compute logits for `pixels`, uint8 `[batch, 3, size, size]`; auxiliary logits in training mode only."""
        output: Any = self.module(self._normalise(inputs))
        if isinstance(output, Tensor):
            return Outputs(output)
        extras = ((extra.weight, getattr(output, extra.field)) for extra in self.anatomy.auxiliary)
        return Outputs(output.logits, tuple((weight, logits) for weight, logits in extras if logits is not None))

    def split(self, border: int) -> SplitModel:
        """Split the model before `layer_groups()[border]`."""
        return split_image_model(self, border, self._normalise)

    def describe(self) -> Description:
        """Return torchvision's name and arguments of the model."""
        return Description("torchvision", self.name, dict(self.arguments))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` with torchvision's parameter names."""
        write_weights(self.module, folder / "model.safetensors")
