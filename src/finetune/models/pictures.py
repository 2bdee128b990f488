"""A transformers picture classifier as a Backbone, with the preprocessing that it was trained with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from finetune.errors import UserError
from finetune.models.anatomy import layer_groups
from finetune.models.backbone import Cut, Description, ImageInput, Interpolation, LayerGroup, LoadedWeights, Outputs
from finetune.models.cut import cut_pictures
from finetune.models.preprocessing import Normaliser, earlier_input, triple, with_depth, with_size
from finetune.models.request import ModelRequest
from finetune.models.sources import read_json
from finetune.models.state_files import separate_tensors
from finetune.models.transformers_families import TransformersFamily
from finetune.models.transformers_folder import OpenedFolder, quiet
from finetune.models.transformers_load import load_network

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROCESSOR_FILE = "preprocessor_config.json"
# Pillow's numbers for ways to resize.
_RESAMPLING: dict[object, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# Below this side, ConvNeXt's processor (which ResNet uses too) resizes to more than it keeps.
_CROPPED_BELOW = 384


@dataclass(frozen=True, slots=True)
class PictureBackbone:
    """A transformers picture classifier; see `Backbone` for the meaning of what it offers."""

    name: str
    module: PreTrainedModel
    expects: ImageInput
    weights: LoadedWeights
    family: TransformersFamily
    _normalise: Normaliser = field(init=False, repr=False)
    _groups: tuple[LayerGroup, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_normalise", Normaliser(self.expects))
        object.__setattr__(self, "_groups", layer_groups(self.module, self.family.anatomy))

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Give the ordered partition from the first layer to head."""
        return self._groups

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Classify `pixels`, uint8 `[batch, 3, size, size]`."""
        return Outputs(self.module(pixel_values=self._normalise(inputs)).logits)

    def cut(self, border: int) -> Cut:
        """Cut the network in front of `layer_groups()[border]`."""
        return cut_pictures(self, border, self._normalise, "pixel_values")

    def describe(self) -> Description:
        """Say which class of transformers opens the folder."""
        return Description("transformers", type(self.module).__name__)

    def save(self, folder: Path) -> None:
        """Write configuration, weights and picture processor, as `from_pretrained` and `pipeline` read them."""
        with quiet():
            self.module.save_pretrained(folder, state_dict=separate_tensors(self.module))
        (folder / PROCESSOR_FILE).write_text(json.dumps(_processor(self.expects), indent=2) + "\n", encoding="utf-8")


def build_pictures(request: ModelRequest, opened: OpenedFolder) -> PictureBackbone:
    """Build a picture classifier.

    Raises:
        UserError: preprocessing, size, weights or head cannot be as requested.
    """
    source, config = opened.source, opened.config
    earlier = earlier_input(source.artifact.get("preprocessing")) if source.artifact else None
    expects = with_size(earlier or _read_processor(opened), request.image_size)
    expects = with_depth(expects, request.sixteen_bit_depth, trained=request.trained)
    _refuse_size(expects.size, opened)
    if not request.pretrained and hasattr(config, "image_size"):
        config.image_size = expects.size
    loaded = load_network(request, opened)
    if config.model_type == "vit":
        _fit_positions(loaded.network, expects.size)
    name = request.spec.name or source.name or str(config.model_type)
    return PictureBackbone(name, loaded.network, expects, loaded.weights, opened.family)


def _read_processor(opened: OpenedFolder) -> ImageInput:
    place = opened.source.place
    if not (opened.folder / PROCESSOR_FILE).is_file():
        raise UserError(f"The {place} has no {PROCESSOR_FILE}, which says how pictures enter the network: add it.")
    processor = read_json(opened.folder / PROCESSOR_FILE, place)
    size = _side(processor.get("crop_size")) if processor.get("do_center_crop") else _side(processor.get("size"))
    resize = _side(processor.get("size"))
    mean, std = triple(processor.get("image_mean")), triple(processor.get("image_std"))
    interpolation = _RESAMPLING.get(processor.get("resample", 2))
    if not size or not resize or mean is None or std is None or min(std) <= 0 or interpolation is None:
        raise UserError(
            f"{PROCESSOR_FILE} in the {place} is not understood: it needs size, image_mean, image_std and a resample"
            f" of {', '.join(str(number) for number in _RESAMPLING)}, for pictures with three channels."
        )
    share = processor.get("crop_pct")
    if isinstance(share, float) and 0 < share <= 1 and size < _CROPPED_BELOW:
        resize = int(size / share)
    return ImageInput(size, max(size, resize), interpolation, mean, std)


def _side(size: object) -> int | None:
    match size:
        case int(side) | {"shortest_edge": int(side)}:
            return side if side > 0 else None
        case {"height": int(height), "width": int(width)} if height == width:
            return height if height > 0 else None
    return None


def _processor(expects: ImageInput) -> dict[str, object]:
    """What transformers' plainest processor needs to know to resize, crop and normalise as we do."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": expects.resize},
        "resample": next(number for number, name in _RESAMPLING.items() if name == expects.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": expects.size, "width": expects.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(expects.mean),
        "image_std": list(expects.std),
        "do_convert_rgb": True,
    }


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
    """Interpolate the position embeddings of a vision transformer for another picture size, as its authors do."""
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
