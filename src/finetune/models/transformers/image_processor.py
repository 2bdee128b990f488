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
from finetune.models.preprocessing import channel_values
from finetune.models.transformers.folder import ModelFolder, one_line_message, quiet

PROCESSOR_FILE = "preprocessor_config.json"
_MULTIMODAL_PROCESSOR_FILE = "processor_config.json"
# Keys are Pillow's constants. transformers maps 0 to nearest-exact; it cannot resize tensors with 1 (Lanczos, for which
# it falls back to bicubic), 4 (box) and 5 (Hamming).
_RESAMPLING: Mapping[int, Interpolation] = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
# Classes that inherit resize, crop, rescale and normalize from their common base class. ConvNext has its own resize.
_STANDARD_PROCESSORS = (
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
_CONVNEXT_PROCESSOR = "ConvNextImageProcessor"
# Below this side length, ConvNext's processor (also used by ResNet) resizes to a larger size and crops; from this
# length on it stretches.
_MIN_STRETCHED_SIDE = 384
_BOOLEAN_FIELDS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")
_METADATA_FIELDS = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "auto_map",
    "_valid_processor_keys",
}


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """The image processor of a transformers folder.

    Attributes:
        expects: equivalent input description.
        content: its JSON object, with transformers' defaults filled in.
    """

    expects: ImageInput
    content: Mapping[str, object]


def read_image_processor(model_folder: ModelFolder) -> ImageProcessor:
    """Read the image processor of a folder.

    As in transformers, absent fields have the default of their processor class, and null counts as unset.

    Raises:
        UserError: it is missing, or prepares images in a way that cannot be reproduced; the message names the field.
    """
    processor, fields, content = _load(model_folder)
    location, class_name = model_folder.source.location, type(processor).__name__
    for name in _BOOLEAN_FIELDS:
        if getattr(processor, name, None) not in (None, True, False):
            raise _unsupported_field_error(location, name, getattr(processor, name), "true or false")
    if not processor.do_resize:
        raise _unsupported_field_error(
            location, "do_resize", processor.do_resize, "true, since all images of a batch need one size"
        )
    if processor.do_pad:
        raise _unsupported_field_error(location, "do_pad", processor.do_pad, "false")
    if processor.input_data_format not in (None, "channels_first"):
        raise _unsupported_field_error(location, "input_data_format", processor.input_data_format, "none")
    if not isinstance(processor.device, str | None):
        raise _unsupported_field_error(location, "device", processor.device, "none")
    resample = _RESAMPLING.get(processor.resample) if isinstance(processor.resample, int) else None
    if resample is None:
        allowed_values = ", ".join(f"{number} ({name})" for number, name in _RESAMPLING.items())
        raise _unsupported_field_error(location, "resample", processor.resample, f"one of {allowed_values}")
    _warn_about_ignored_fields(
        location, class_name, set(fields) - _METADATA_FIELDS - set(type(processor).valid_kwargs.__annotations__)
    )
    size, resize, stretch = (_convnext_geometry if class_name == _CONVNEXT_PROCESSOR else _standard_geometry)(
        processor, location
    )
    mean, std = _normalization(processor, location)
    expects = ImageInput(size, resize, resample, mean, std, stretch=stretch, floor_crop=True)
    return ImageProcessor(expects, content)


def image_processor_config(expects: ImageInput) -> dict[str, object]:
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


def _load(model_folder: ModelFolder) -> tuple[Any, Mapping[str, object], Mapping[str, object]]:
    """Return the image processor, the fields set in its file, and the fields that it would be saved with."""
    from transformers import AutoImageProcessor as Untyped
    from transformers import BaseImageProcessor

    auto: Any = Untyped
    location = model_folder.source.location
    if not any((model_folder.folder / name).is_file() for name in (PROCESSOR_FILE, _MULTIMODAL_PROCESSOR_FILE)):
        raise UserError(f"The {location} has no {PROCESSOR_FILE}, which describes the image preprocessing: add it.")
    try:
        with quiet():
            fields, _ = BaseImageProcessor.get_image_processor_dict(model_folder.folder, local_files_only=True)
            processor = auto.from_pretrained(model_folder.folder, local_files_only=True, trust_remote_code=False)
            content = json.loads(processor.to_json_string())
    # Constructors receive unchecked values of any type and store them as arbitrary attributes.
    except Exception as error:
        raise UserError(f"{PROCESSOR_FILE} in the {location} cannot be used: {one_line_message(error)}.") from error
    class_name = type(processor).__name__
    if class_name not in (*_STANDARD_PROCESSORS, _CONVNEXT_PROCESSOR):
        raise _unsupported_field_error(
            location,
            "image_processor_type",
            class_name,
            f"one of {', '.join((*_STANDARD_PROCESSORS, _CONVNEXT_PROCESSOR))}",
        )
    return processor, fields, content


def _warn_about_ignored_fields(location: str, class_name: str, names: set[str]) -> None:
    if names:
        logging.getLogger(__name__).warning(
            "%s in the %s: ignoring fields that %s does not use: %s.",
            PROCESSOR_FILE,
            location,
            class_name,
            ", ".join(sorted(names)),
        )


def _standard_geometry(processor: Any, location: str) -> tuple[int, int, bool]:  # noqa: ANN401 - its attributes differ by class
    """Return size, resize and stretch of a processor with the base class's resize and crop."""
    match _size_fields(processor.size):
        case {"height": int(height), "width": int(width), **rest} if height == width > 0 and not rest:
            resize, stretch = height, True
        case {"shortest_edge": int(edge), **rest} if edge > 0 and not rest and processor.do_center_crop:
            resize, stretch = edge, False
        case {"shortest_edge": int(), **rest} if not rest:
            raise _unsupported_field_error(
                location, "do_center_crop", processor.do_center_crop, "true with size={'shortest_edge': ...}"
            )
        case sides:
            raise _unsupported_field_error(location, "size", sides, "equal height and width, or shortest_edge")
    return (_crop_size(processor, location) if processor.do_center_crop else resize), resize, stretch


def _convnext_geometry(processor: Any, location: str) -> tuple[int, int, bool]:  # noqa: ANN401 - its attributes differ by class
    """Return size, resize and stretch of ConvNext's processor, which crops small images by itself."""
    match _size_fields(processor.size):
        case {"shortest_edge": int(edge), **rest} if edge > 0 and not rest:
            pass
        case sides:
            raise _unsupported_field_error(location, "size", sides, f"shortest_edge, which {_CONVNEXT_PROCESSOR} needs")
    if processor.do_center_crop and _crop_size(processor, location) != edge:
        raise _unsupported_field_error(
            location,
            "crop_size",
            _size_fields(processor.crop_size),
            f"{edge}, the output size of {_CONVNEXT_PROCESSOR}",
        )
    if edge >= _MIN_STRETCHED_SIDE:
        return edge, edge, True
    crop_fraction = processor.crop_pct
    if isinstance(crop_fraction, bool) or not isinstance(crop_fraction, int | float) or not 0 < crop_fraction <= 1:
        raise _unsupported_field_error(location, "crop_pct", crop_fraction, "above 0 and at most 1")
    return edge, int(edge / crop_fraction), False


def _crop_size(processor: Any, location: str) -> int:  # noqa: ANN401 - its attributes differ by class
    match _size_fields(processor.crop_size):
        case {"height": int(height), "width": int(width)} if height == width > 0:
            return height
        case sides:
            raise _unsupported_field_error(location, "crop_size", sides, "equal height and width")


def _size_fields(size: Any) -> dict[str, object]:  # noqa: ANN401 - transformers' SizeDict, or None
    return {name: value for name, value in dict(size or {}).items() if value is not None}


def _normalization(
    processor: Any,  # noqa: ANN401 - its attributes differ by class
    location: str,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation for values in 0..1, equivalent to the processor's for values in 0..255."""
    scale = 255.0
    if processor.do_rescale:
        factor = processor.rescale_factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise _unsupported_field_error(location, "rescale_factor", factor, "a number above 0")
        scale *= factor
    # The usual factor 1/255 gives a scale of exactly 1, so that mean and deviation keep their exact bits.
    scale = 1.0 if math.isclose(scale, 1.0, rel_tol=1e-9) else scale
    image_mean, image_std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    mean, std = _per_channel(image_mean), _per_channel(image_std)
    if mean is None or not all(map(math.isfinite, mean)):
        raise _unsupported_field_error(location, "image_mean", image_mean, "a number for each of three channels")
    if std is None or not all(0 < value < math.inf for value in std):
        raise _unsupported_field_error(location, "image_std", image_std, "a number above 0 for each of three channels")
    return (mean[0] / scale, mean[1] / scale, mean[2] / scale), (std[0] / scale, std[1] / scale, std[2] / scale)


def _per_channel(value: object) -> tuple[float, float, float] | None:
    """Return three numbers; a single number applies to all channels, as in transformers."""
    if isinstance(value, bool):
        return None
    match value:
        case int(number) | float(number) | [int(number)] | [float(number)]:
            return float(number), float(number), float(number)
    return channel_values(value)


def _unsupported_field_error(location: str, name: str, value: object, allowed: str) -> UserError:
    shown_value = value if isinstance(value, dict) else repr(value)[:200]
    return UserError(
        f"{PROCESSOR_FILE} in the {location} has {name}={shown_value}, which is not supported: it"
        f" must be {allowed}. Change the field if the model was trained that way, or convert the images beforehand."
    )
