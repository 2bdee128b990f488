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
from finetune.models.backbone import Description, ImageInput, LayerGroup, LoadedWeights, Outputs, SplitModel
from finetune.models.layer_groups import layer_groups
from finetune.models.preprocessing import Normaliser, earlier_input, with_depth, with_size
from finetune.models.request import ModelRequest
from finetune.models.splitting.split_model import split_image_model
from finetune.models.transformers.families import TransformersFamily
from finetune.models.transformers.folder import OpenedFolder, quiet
from finetune.models.transformers.image_processor import PROCESSOR_FILE, describe_processor, read_image_processor
from finetune.models.transformers.load import load_network
from finetune.models.weights.state_files import separate_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class ImageBackbone:
    """A transformers image classifier; implements `Backbone`.

    Attributes:
        family: entry of the model's family in the table of families.
        processor: content of `preprocessor_config.json`, equivalent to `expects`.
    """

    name: str
    module: PreTrainedModel
    expects: ImageInput
    weights: LoadedWeights
    family: TransformersFamily
    processor: Mapping[str, object]
    _normalise: Normaliser = field(init=False, repr=False)
    _groups: tuple[LayerGroup, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_normalise", Normaliser(self.expects))
        object.__setattr__(self, "_groups", layer_groups(self.module, self.family.anatomy))

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Return the ordered partition from the first layer to the head."""
        return self._groups

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Compute logits for `pixels`, uint8 `[batch, 3, size, size]`."""
        return Outputs(self.module(pixel_values=self._normalise(inputs)).logits)

    def split(self, border: int) -> SplitModel:
        """Split the model before `layer_groups()[border]`."""
        return split_image_model(self, border, self._normalise, "pixel_values")

    def describe(self) -> Description:
        """Return the transformers class that loads the saved folder."""
        return Description("transformers", type(self.module).__name__)

    def save(self, folder: Path) -> None:
        """Write configuration, weights and image processor for `from_pretrained` and `pipeline`."""
        with quiet():
            self.module.save_pretrained(folder, state_dict=separate_tensors(self.module))
        (folder / PROCESSOR_FILE).write_text(json.dumps(self.processor, indent=2) + "\n", encoding="utf-8")


def build_image(request: ModelRequest, opened: OpenedFolder) -> ImageBackbone:
    """Build an image classifier.

    Raises:
        UserError: preprocessing, size, weights or head do not match the request.
    """
    source, config = opened.source, opened.config
    _refuse_network(opened)
    expects, processor = _preprocessing(request, opened)
    expects = with_depth(expects, request.sixteen_bit_depth, trained=request.trained)
    _refuse_size(expects.size, opened)
    if not request.pretrained and hasattr(config, "image_size"):
        config.image_size = expects.size
    loaded = load_network(request, opened)
    if config.model_type == "vit":
        _fit_positions(loaded.network, expects.size)
    name = request.spec.name or source.name or str(config.model_type)
    return ImageBackbone(name, loaded.network, expects, loaded.weights, opened.family, processor)


def _preprocessing(request: ModelRequest, opened: OpenedFolder) -> tuple[ImageInput, Mapping[str, object]]:
    """Return the model's input and the content of `preprocessor_config.json` that describes it."""
    artifact = opened.source.artifact
    earlier = earlier_input(artifact.get("preprocessing")) if artifact else None
    if earlier is not None:
        expects = with_size(earlier, request.image_size)
        return expects, describe_processor(expects)
    folders = read_image_processor(opened)
    expects = with_size(folders.expects, request.image_size)
    own = getattr(opened.config, "image_size", None)
    # Swin pads and ResNet accepts any size, but transformers rejects images of another size for a ViT.
    if opened.config.model_type == "vit" and request.pretrained and request.image_size is None and expects.size != own:
        raise UserError(
            f"{PROCESSOR_FILE} in the {opened.source.place} gives images of {expects.size} x {expects.size}, but its"
            f" config.json has image_size={own}: set image_size={expects.size} to interpolate the position embeddings,"
            f" or image_size={own}, or correct the file that is wrong."
        )
    return expects, folders.content if expects == folders.expects else describe_processor(expects)


def _refuse_network(opened: OpenedFolder) -> None:
    """Refuse models whose input is not square images with three channels."""
    config, place = opened.config, opened.source.place
    if config.num_channels != 3:
        raise UserError(
            f"config.json in the {place} has num_channels={config.num_channels!r}, but images are read with three"
            " channels: choose a network for RGB images."
        )
    for name in ("image_size", "patch_size"):
        value = getattr(config, name, 1)
        if not isinstance(value, int):
            raise UserError(
                f"config.json in the {place} has {name}={value!r}, but only squares are supported: give a number."
            )


def _refuse_size(size: int, opened: OpenedFolder) -> None:
    config = opened.config
    patch = getattr(config, "patch_size", None)
    if config.model_type == "vit" and size % cast("int", patch):
        raise UserError(f"image_size={size} does not suit patches of {patch} pixels: choose a multiple of {patch}.")
    if config.model_type == "swin":
        smallest = int(config.patch_size * 2 ** (len(config.depths) - 1) * config.window_size)
        if size < min(smallest, int(config.image_size)):
            raise UserError(f"image_size={size} is too small for this Swin's windows: choose {smallest} or more.")


def _fit_positions(network: Any, size: int) -> None:  # noqa: ANN401 - transformers types its layers as tensors or modules
    """Interpolate the position embeddings of a vision transformer for another image size, as its authors do."""
    config, embeddings = network.config, network.vit.embeddings
    if size == config.image_size:
        return
    side = size // config.patch_size
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(torch.empty(1, side * side + 1, config.hidden_size), size, size)
    embeddings.position_embeddings = nn.Parameter(positions)
    embeddings.patch_embeddings.num_patches = side * side
    embeddings.image_size = embeddings.patch_embeddings.image_size = (size, size)
    config.image_size = size
