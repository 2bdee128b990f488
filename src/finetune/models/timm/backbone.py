"""`Backbone` for timm classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.models.backbone import ImageInput, ModelDescription, Outputs, SplitModel
from finetune.models.layered import LayeredBackbone
from finetune.models.preprocessing import Normalizer
from finetune.models.splitting.split_model import split_image_model
from finetune.models.weights.sources import CONFIG_FILE
from finetune.models.weights.state_files import write_weights


@dataclass(frozen=True, slots=True)
class TimmBackbone(LayeredBackbone):
    """A timm classifier; implements `Backbone`.

    Attributes:
        architecture: name of the architecture, without the tag of its weights.
        arguments: keyword arguments with which `timm.create_model(architecture, **arguments)` builds the same model.
        labels: class names in the order of the logits.
    """

    module: Any
    expects: ImageInput
    architecture: str
    arguments: Mapping[str, object]
    labels: tuple[str, ...]
    _normalize: Normalizer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Without arguments, `super` does not work in a dataclass with slots.
        LayeredBackbone.__post_init__(self)
        object.__setattr__(self, "_normalize", Normalizer(self.expects))

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Compute logits for `pixels`, uint8 `[batch, 3, size, size]`."""
        return Outputs(self.module(self._normalize(inputs)))

    def split(self, split_index: int) -> SplitModel:
        """Split the model before `layer_groups()[split_index]`."""
        return split_image_model(self, split_index, self._normalize, image_size=self.expects.size)

    def describe(self) -> ModelDescription:
        """Return timm's name and arguments of the model."""
        return ModelDescription("timm", self.architecture, dict(self.arguments))

    def save(self, folder: Path) -> None:
        """Write a timm folder in the layout of the hub: `model.safetensors` and `config.json`."""
        from timm.models._hub import save_config_for_hf  # the part of `save_for_hf` without torch's file format

        write_weights(self.module, folder / "model.safetensors")
        expects = self.expects
        data_config = {
            "input_size": (3, expects.size, expects.size),
            "interpolation": expects.interpolation,
            "mean": expects.mean,
            "std": expects.std,
            "crop_pct": expects.size / expects.resize,
            "crop_mode": "squash" if expects.stretch else "center",
        }
        arguments = {name: value for name, value in self.arguments.items() if name != "num_classes"}
        save_config_for_hf(
            self.module,
            str(folder / CONFIG_FILE),
            model_config={"label_names": list(self.labels)},
            model_args=arguments,
            data_config=data_config,
        )
