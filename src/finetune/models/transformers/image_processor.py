"""Reads the image processor of a transformers folder and converts it to an equivalent `ImageInput`."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import UserError
from finetune.models.backbone import ImageInput, Interpolation
from finetune.models.preprocessing import triple
from finetune.models.transformers.folder import OpenedFolder, first_line, quiet

PROCESSOR_FILE = "preprocessor_config.json"
_NESTED_FILE = "processor_config.json"
# Keys are Pillow's constants. transformers maps 0 to nearest-exact; it cannot resize tensors with 1 (Lanczos, for which
# it falls back to bicubic), 4 (box) and 5 (Hamming).
_RESAMPLING: Mapping[int, Interpolation] = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
# Classes that inherit resize, crop, rescale and normalize from their common base class. ConvNext has its own resize.
_PLAIN = (
    "ViTImageProcessor",
    "DeiTImageProcessor",
    "BitImageProcessor",
    "CLIPImageProcessor",
    "ChineseCLIPImageProcessor",
    "BlipImageProcessor",
    "SiglipImageProcessor",
    "PvtImageProcessor",
    "MobileNetV1ImageProcessor",
)
_CONVNEXT = "ConvNextImageProcessor"
# Below this side length, ConvNext's processor (also used by ResNet) resizes to a larger size and crops; from this
# length on it stretches.
_CROPPED_BELOW = 384
_SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")
_BOOKKEEPING = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "auto_map",
    "_valid_processor_keys",
}


@dataclass(frozen=True, slots=True)
class FolderProcessor:
    """The image processor of a transformers folder.

    Attributes:
        expects: equivalent input description.
        content: its JSON object, with transformers' defaults filled in.
    """

    expects: ImageInput
    content: Mapping[str, object]


def read_image_processor(opened: OpenedFolder) -> FolderProcessor:
    """Read the image processor of a folder.

    As in transformers, absent fields have the default of their processor class, and null counts as unset.

    Raises:
        UserError: it is missing, or prepares images in a way that cannot be reproduced; the message names the field.
    """
    processor, given, content = _load(opened)
    place, kind = opened.source.place, type(processor).__name__
    for name in _SWITCHES:
        if getattr(processor, name, None) not in (None, True, False):
            raise _refusal(place, name, getattr(processor, name), "true or false")
    if not processor.do_resize:
        raise _refusal(place, "do_resize", processor.do_resize, "true, since all images of a batch need one size")
    if processor.do_pad:
        raise _refusal(place, "do_pad", processor.do_pad, "false")
    if processor.input_data_format not in (None, "channels_first"):
        raise _refusal(place, "input_data_format", processor.input_data_format, "none")
    if not isinstance(processor.device, str | None):
        raise _refusal(place, "device", processor.device, "none")
    resample = _RESAMPLING.get(processor.resample) if isinstance(processor.resample, int) else None
    if resample is None:
        known = ", ".join(f"{number} ({name})" for number, name in _RESAMPLING.items())
        raise _refusal(place, "resample", processor.resample, f"one of {known}")
    _warn_of_ignored(place, kind, set(given) - _BOOKKEEPING - set(type(processor).valid_kwargs.__annotations__))
    size, resize, stretch = (_convnext_sides if kind == _CONVNEXT else _plain_sides)(processor, place)
    mean, std = _normalization(processor, place)
    expects = ImageInput(size, resize, resample, mean, std, stretch=stretch, floor_crop=True)
    return FolderProcessor(expects, content)


def describe_processor(expects: ImageInput) -> dict[str, object]:
    """Return the content of `preprocessor_config.json` for an input, using transformers' `ViTImageProcessor`."""
    sides = (
        {"height": expects.resize, "width": expects.resize} if expects.stretch else {"shortest_edge": expects.resize}
    )
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": sides,
        "resample": {"nearest": 0, "nearest-exact": 0, "bilinear": 2, "bicubic": 3}[expects.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": expects.size, "width": expects.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(expects.mean),
        "image_std": list(expects.std),
        "do_convert_rgb": True,
    }


def _load(opened: OpenedFolder) -> tuple[Any, Mapping[str, object], Mapping[str, object]]:
    """Return the image processor, the fields set in its file, and the fields that it would be saved with."""
    from transformers import AutoImageProcessor as Untyped
    from transformers import BaseImageProcessor

    auto: Any = Untyped
    place = opened.source.place
    if not any((opened.folder / name).is_file() for name in (PROCESSOR_FILE, _NESTED_FILE)):
        raise UserError(f"The {place} has no {PROCESSOR_FILE}, which says how images enter the model: add it.")
    try:
        with quiet():
            given, _ = BaseImageProcessor.get_image_processor_dict(opened.folder, local_files_only=True)
            processor = auto.from_pretrained(opened.folder, local_files_only=True, trust_remote_code=False)
            content = json.loads(processor.to_json_string())
    # Constructors receive unchecked values of any type and store them as arbitrary attributes.
    except Exception as error:
        raise UserError(f"{PROCESSOR_FILE} in the {place} cannot be used: {first_line(error)}.") from error
    kind = type(processor).__name__
    if kind not in (*_PLAIN, _CONVNEXT):
        raise _refusal(place, "image_processor_type", kind, f"one of {', '.join((*_PLAIN, _CONVNEXT))}")
    return processor, given, content


def _warn_of_ignored(place: str, kind: str, names: set[str]) -> None:
    if names:
        logging.getLogger(__name__).warning(
            "%s in the %s: %s does not read %s, so neither does this job.",
            PROCESSOR_FILE,
            place,
            kind,
            ", ".join(sorted(names)),
        )


def _plain_sides(processor: Any, place: str) -> tuple[int, int, bool]:  # noqa: ANN401 - its attributes differ by class
    """Return size, resize and stretch of a processor with the base class's resize and crop."""
    match _sides(processor.size):
        case {"height": int(height), "width": int(width), **rest} if height == width > 0 and not rest:
            resize, stretch = height, True
        case {"shortest_edge": int(edge), **rest} if edge > 0 and not rest and processor.do_center_crop:
            resize, stretch = edge, False
        case {"shortest_edge": int(), **rest} if not rest:
            raise _refusal(place, "do_center_crop", processor.do_center_crop, "true beside size={'shortest_edge': ...}")
        case sides:
            raise _refusal(place, "size", sides, "equal height and width, or shortest_edge")
    return (_square(processor, place) if processor.do_center_crop else resize), resize, stretch


def _convnext_sides(processor: Any, place: str) -> tuple[int, int, bool]:  # noqa: ANN401 - its attributes differ by class
    """Return size, resize and stretch of ConvNext's processor, which crops small images by itself."""
    match _sides(processor.size):
        case {"shortest_edge": int(edge), **rest} if edge > 0 and not rest:
            pass
        case sides:
            raise _refusal(place, "size", sides, f"shortest_edge, which {_CONVNEXT} needs")
    if processor.do_center_crop and _square(processor, place) != edge:
        raise _refusal(place, "crop_size", _sides(processor.crop_size), f"{edge}, which is what {_CONVNEXT} leaves")
    if edge >= _CROPPED_BELOW:
        return edge, edge, True
    share = processor.crop_pct
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise _refusal(place, "crop_pct", share, "above 0 and at most 1")
    return edge, int(edge / share), False


def _square(processor: Any, place: str) -> int:  # noqa: ANN401 - its attributes differ by class
    match _sides(processor.crop_size):
        case {"height": int(height), "width": int(width)} if height == width > 0:
            return height
        case sides:
            raise _refusal(place, "crop_size", sides, "equal height and width")


def _sides(size: Any) -> dict[str, object]:  # noqa: ANN401 - transformers' SizeDict, or None
    return {name: value for name, value in dict(size or {}).items() if value is not None}


def _normalization(
    processor: Any,  # noqa: ANN401 - its attributes differ by class
    place: str,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation for values in 0..1, equivalent to the processor's for values in 0..255."""
    scale = 255.0
    if processor.do_rescale:
        factor = processor.rescale_factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise _refusal(place, "rescale_factor", factor, "a number above 0")
        scale *= factor
    # The usual factor 1/255 gives a scale of exactly 1, so that mean and deviation keep their exact bits.
    scale = 1.0 if math.isclose(scale, 1.0, rel_tol=1e-9) else scale
    given = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    mean, std = _channels(given[0]), _channels(given[1])
    if mean is None or not all(map(math.isfinite, mean)):
        raise _refusal(place, "image_mean", given[0], "a number for each of three channels")
    if std is None or not all(0 < value < math.inf for value in std):
        raise _refusal(place, "image_std", given[1], "a number above 0 for each of three channels")
    return (mean[0] / scale, mean[1] / scale, mean[2] / scale), (std[0] / scale, std[1] / scale, std[2] / scale)


def _channels(value: object) -> tuple[float, float, float] | None:
    """Return three numbers; a single number applies to all channels, as in transformers."""
    if isinstance(value, bool):
        return None
    match value:
        case int(one) | float(one) | [int(one)] | [float(one)]:
            return float(one), float(one), float(one)
    return triple(value)


def _refusal(place: str, name: str, value: object, allowed: str) -> UserError:
    shown = value if isinstance(value, dict) else repr(value)[:200]
    return UserError(
        f"{PROCESSOR_FILE} in the {place} has {name}={shown}, which this container does not reproduce: it needs"
        f" {allowed}. Change the field if that is how the model was trained, or convert the images beforehand."
    )
