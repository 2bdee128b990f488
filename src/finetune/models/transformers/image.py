"""`Backbone` for transformers image classifiers, with the preprocessing of their training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from finetune.errors import UserError
from finetune.models.backbone import ImageInput, ModelDescription, Outputs, SplitModel
from finetune.models.layered import LayeredBackbone
from finetune.models.preprocessing import Normalizer, input_from_artifact, with_depth, with_size
from finetune.models.request import ModelRequest
from finetune.models.splitting.exactness import other_pixels, with_exact_groups
from finetune.models.splitting.split_model import example_pixels, split_image_model
from finetune.models.transformers.families import TESTED_IMAGE_TYPES
from finetune.models.transformers.folder import ModelFolder, quiet, unsupported_structure_error
from finetune.models.transformers.image_processor import PROCESSOR_FILE, image_processor_config, read_image_processor
from finetune.models.transformers.load import load_model
from finetune.models.weights.state_files import separate_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class ImageBackbone(LayeredBackbone):
    """A transformers image classifier; implements `Backbone`.

    Attributes:
        processor: content of `preprocessor_config.json`, equivalent to `expects`.
    """

    module: PreTrainedModel
    expects: ImageInput
    processor: Mapping[str, object]
    _normalize: Normalizer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Without arguments, `super` does not work in a dataclass with slots.
        LayeredBackbone.__post_init__(self)
        object.__setattr__(self, "_normalize", Normalizer(self.expects))

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Compute logits for `pixels`, uint8 `[batch, 3, size, size]`."""
        return Outputs(self.module(pixel_values=self._normalize(inputs)).logits)

    def split(self, split_index: int) -> SplitModel:
        """Split the model before `layer_groups()[split_index]`."""
        size = self.expects.size
        return split_image_model(self, split_index, self._normalize, image_size=size, argument="pixel_values")

    def describe(self) -> ModelDescription:
        """Return the transformers class that loads the saved folder."""
        return ModelDescription("transformers", type(self.module).__name__)

    def save(self, folder: Path) -> None:
        """Write configuration, weights and image processor for `from_pretrained` and `pipeline`."""
        with quiet():
            self.module.save_pretrained(folder, state_dict=separate_tensors(self.module))
        (folder / PROCESSOR_FILE).write_text(json.dumps(self.processor, indent=2) + "\n", encoding="utf-8")


def build_image(request: ModelRequest, model_folder: ModelFolder) -> ImageBackbone:
    """Build an image classifier.

    Raises:
        UserError: preprocessing, size, weights or head do not match the request.
    """
    source, config = model_folder.source, model_folder.config
    _check_config(model_folder)
    expects, processor = _preprocessing(request, model_folder)
    expects = with_depth(expects, request.sixteen_bit_depth, trained=request.trained)
    _check_image_size(expects.size, model_folder)
    if not request.pretrained and hasattr(config, "image_size"):
        config.image_size = expects.size
    # The position embeddings of a ViT are interpolated after loading.
    example_size = int(config.image_size) if config.model_type == "vit" else expects.size
    example = Normalizer(expects)({"pixels": example_pixels(example_size)})
    loaded = load_model(request, model_folder, lambda model: model(pixel_values=example))
    if config.model_type == "vit":
        _interpolate_positions(loaded.model, expects.size)
    name = request.spec.name or source.name or str(config.model_type)
    backbone = ImageBackbone(name, loaded.model, expects, loaded.weights, loaded.layout, processor)
    return _with_exact_groups(backbone, model_folder)


def _with_exact_groups(backbone: ImageBackbone, model_folder: ModelFolder) -> ImageBackbone:
    """Return the model with its encoder as a single group if it cannot be split between its blocks.

    Raises:
        UserError: the model cannot be split before its head either.
    """
    if model_folder.config.model_type in TESTED_IMAGE_TYPES:
        return backbone
    backbone.module.train(mode=False)
    exact = with_exact_groups(backbone, model_folder.family.parts, other_pixels(backbone.expects.size))
    if exact is None:
        raise unsupported_structure_error(model_folder)
    return exact


def _preprocessing(request: ModelRequest, model_folder: ModelFolder) -> tuple[ImageInput, Mapping[str, object]]:
    """Return the model's input and the content of `preprocessor_config.json` that describes it."""
    artifact = model_folder.source.artifact
    artifact_input = input_from_artifact(artifact.get("preprocessing")) if artifact else None
    if artifact_input is not None:
        expects = with_size(artifact_input, request.image_size)
        return expects, image_processor_config(expects)
    image_processor = read_image_processor(model_folder)
    expects = with_size(image_processor.expects, request.image_size)
    config_size = getattr(model_folder.config, "image_size", None)
    # Swin pads and ResNet accepts any size, but transformers rejects images of another size for a ViT.
    if (
        model_folder.config.model_type == "vit"
        and request.pretrained
        and request.image_size is None
        and expects.size != config_size
    ):
        raise UserError(
            f"{PROCESSOR_FILE} in the {model_folder.source.location} produces images of {expects.size} x"
            f" {expects.size}, but its config.json has image_size={config_size}: set image_size={expects.size} to"
            f" interpolate the position embeddings, or image_size={config_size}, or correct the file that is wrong."
        )
    return expects, image_processor.content if expects == image_processor.expects else image_processor_config(expects)


def _check_config(model_folder: ModelFolder) -> None:
    """Refuse models whose input is not square images with three channels."""
    location = model_folder.source.location
    config = getattr(model_folder.config, "vision_config", model_folder.config)
    if getattr(config, "num_channels", 3) != 3:
        raise UserError(
            f"config.json in the {location} has num_channels={config.num_channels!r}, but images have three"
            " channels: choose a model for RGB images."
        )
    for name in ("image_size", "patch_size"):
        value = getattr(config, name, 1)
        if not isinstance(value, int):
            raise UserError(
                f"config.json in the {location} has {name}={value!r}, but only squares are supported: use a single"
                " number."
            )


def _check_image_size(size: int, model_folder: ModelFolder) -> None:
    config = model_folder.config
    patch = getattr(config, "patch_size", None)
    if config.model_type == "vit" and size % cast("int", patch):
        raise UserError(f"image_size={size} is not a multiple of the patch size: choose a multiple of {patch}.")
    if config.model_type == "swin":
        min_size = int(config.patch_size * 2 ** (len(config.depths) - 1) * config.window_size)
        if size < min(min_size, int(config.image_size)):
            raise UserError(f"image_size={size} is too small for this Swin's windows: choose {min_size} or more.")


def _interpolate_positions(model: Any, size: int) -> None:  # noqa: ANN401 - transformers types its layers as tensors or modules
    """Interpolate the position embeddings of a vision transformer for another image size, as its authors do."""
    config, embeddings = model.config, model.vit.embeddings
    if size == config.image_size:
        return
    side = size // config.patch_size
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(torch.empty(1, side * side + 1, config.hidden_size), size, size)
    embeddings.position_embeddings = nn.Parameter(positions)
    embeddings.patch_embeddings.num_patches = side * side
    embeddings.image_size = embeddings.patch_embeddings.image_size = (size, size)
    config.image_size = size
