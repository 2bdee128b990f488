"""`Backbone` for torchvision classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finetune.models.backbone import ImageInput, ModelDescription, Outputs, SplitModel
from finetune.models.layered import LayeredBackbone
from finetune.models.preprocessing import Normalizer
from finetune.models.splitting.split_model import split_image_model
from finetune.models.weights.state_files import write_weights


@dataclass(frozen=True, slots=True)
class TorchvisionBackbone(LayeredBackbone):
    """A torchvision classifier; implements `Backbone`.

    Attributes:
        arguments: keyword arguments with which `torchvision.models.get_model(name, **arguments)` builds the same model.
    """

    module: nn.Module
    expects: ImageInput
    arguments: Mapping[str, object]
    _normalize: Normalizer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Without arguments, `super` does not work in a dataclass with slots.
        LayeredBackbone.__post_init__(self)
        object.__setattr__(self, "_normalize", Normalizer(self.expects))

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Compute logits for `pixels`, uint8 `[batch, 3, size, size]`; auxiliary logits in training mode only."""
        output: Any = self.module(self._normalize(inputs))
        if isinstance(output, Tensor):
            return Outputs(output)
        auxiliary = ((extra.weight, getattr(output, extra.field)) for extra in self.layout.auxiliary)
        return Outputs(output.logits, tuple((weight, logits) for weight, logits in auxiliary if logits is not None))

    def split(self, split_index: int) -> SplitModel:
        """Split the model before `layer_groups()[split_index]`."""
        return split_image_model(self, split_index, self._normalize, image_size=self.expects.size)

    def describe(self) -> ModelDescription:
        """Return torchvision's name and arguments of the model."""
        return ModelDescription("torchvision", self.name, dict(self.arguments))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` with torchvision's parameter names."""
        write_weights(self.module, folder / "model.safetensors")
