"""Builds a timm classifier: architecture and preprocessing from timm, weights from a folder, a file or the hub."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from finetune.errors import UserError, did_you_mean
from finetune.models.backbone import ImageInput, Interpolation, LoadedWeights
from finetune.models.heads import (
    SourceHead,
    check_class_count,
    get_linear,
    partial_head_warning,
    rows_to_keep,
    seeded,
    set_head_dropout,
)
from finetune.models.layer_groups import ModelLayout
from finetune.models.preprocessing import Normalizer, channel_values, input_from_artifact, with_depth, with_size
from finetune.models.request import ModelRequest
from finetune.models.splitting.exactness import other_pixels, with_exact_groups
from finetune.models.splitting.split_model import example_pixels
from finetune.models.structure import ModelParts, UndividedModelError, find_layout, undivided_layout
from finetune.models.timm.backbone import TimmBackbone
from finetune.models.weights.loading_report import check_finite, summarize_faults
from finetune.models.weights.locate import missing_weights_error
from finetune.models.weights.matching import compare_tensors, load_matching_tensors
from finetune.models.weights.sources import CONFIG_FILE, Source, read_json
from finetune.models.weights.state_dict import StateDict, StateFile, read_state_file, strip_model_prefix

PREFIX = "timm/"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Arguments of `create_model` that are not those of the model itself.
_FACTORY_ARGUMENTS = frozenset(
    {
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only"),
        *("scriptable", "exportable", "no_jit", "device", "dtype", "pretrained_strict", "num_classes", "in_chans"),
    }
)
_INTERPOLATIONS: Mapping[str, Interpolation] = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "nearest": "nearest",
    "random": "bicubic",
}
# Errors that timm raises for names and arguments.
_BUILD_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True, slots=True)
class _TimmSource:
    """A timm model and where its weights are.

    Attributes:
        architecture: name of the architecture, without the tag of its weights.
        location: description for messages.
        description: description of the weights for messages.
        weights: file of the weights; None for random ones.
        pretrained_cfg: preprocessing and names of special layers.
        arguments: keyword arguments of the architecture.
        labels: class names in the order of the outputs, if they are stated.
    """

    architecture: str
    location: str
    description: str
    weights: Path | None
    pretrained_cfg: Mapping[str, Any]
    arguments: Mapping[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None


def build_timm(request: ModelRequest, source: Source) -> TimmBackbone:
    """Build a timm classifier with the weights of `source`, or random ones if none are requested.

    Raises:
        UserError: the model, its size, its weights or its head do not match the request.
    """
    found = _open_source(request, source)
    expects = _image_input(request, source, found)
    arguments = {**found.arguments, "num_classes": len(request.labels)}
    if found.pretrained_cfg.get("fixed_input_size"):
        arguments["img_size"] = expects.size
    model = _create(found, arguments, request.seed)
    parts = _parts(model, found)
    with seeded(request.seed, parts.classifier):
        get_linear(model, parts.classifier).reset_parameters()
    layout = _find_layout(model, parts, expects, found)
    weights = LoadedWeights("random", newly_initialized=tuple(model.state_dict()))
    if found.weights is not None:
        weights = _load_weights(model, layout, found, source, request)
    if request.spec.dropout is not None:
        set_head_dropout(model, layout.head.split(), layout.classifier, request.spec.dropout)
    name = f"{PREFIX}{found.architecture}"
    backbone = TimmBackbone(name, model, expects, weights, layout, found.architecture, arguments, request.labels)
    model.eval()
    exact = with_exact_groups(backbone, parts, other_pixels(expects.size))
    if exact is None:
        raise UserError(
            f"The timm model {found.architecture!r} is not supported: its encoder and its head do not compute the same"
            " separately as together. Choose another architecture."
        )
    return exact


def timm_labels(request: ModelRequest, source: Source) -> tuple[str, ...] | None:
    """Return the class names in the order of the outputs, if the source states them."""
    return source.labels or _open_source(request, source).labels


def _open_source(request: ModelRequest, source: Source) -> _TimmSource:
    """Find architecture, configuration and weights, after a download if they are on the hub."""
    if source.kind == "timm folder" and source.path is not None:
        return _open_folder(source.path, source, request)
    name = (request.spec.name or source.name or "").removeprefix(PREFIX)
    _check_name(name, source)
    pretrained_cfg = _pretrained_cfg(name)
    architecture = name.partition(".")[0]
    if source.path is not None or not request.pretrained:
        path = source.path if request.pretrained else None
        return _TimmSource(architecture, source.location, source.description, path, pretrained_cfg)
    tag = pretrained_cfg.get("tag")
    repository = f"{PREFIX}{architecture}{f'.{tag}' if tag else ''}"
    return replace(_open_folder(_download(request, repository), source, request), description=f"hub ({repository})")


def _pretrained_cfg(name: str) -> dict[str, Any]:
    """Return timm's configuration of an architecture with the weights of a tag, or of its default one."""
    from timm.models import get_pretrained_cfg

    pretrained_cfg: Any = get_pretrained_cfg(name)
    return dict(pretrained_cfg.to_dict())


def _download(request: ModelRequest, repository: str) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=[CONFIG_FILE, _WEIGHTS[0]]))
        if not (folder / _WEIGHTS[0]).is_file():
            snapshot_download(repository, allow_patterns=[_WEIGHTS[1]])
    except (OSError, HfHubHTTPError, HFValidationError, HTTPError) as error:
        raise missing_weights_error(request, repository, " ".join(str(error).split())[:300]) from error
    return folder


def _check_name(name: str, source: Source) -> None:
    import timm

    if not timm.is_model(name):
        hint = did_you_mean(name.partition(".")[0], timm.list_models())
        raise UserError(
            f"The architecture {name[:60]!r} of the {source.location} is unknown to timm {timm.__version__}{hint}: set"
            f" model_name to {PREFIX}NAME, with a name of timm.list_models()."
        )


def _open_folder(folder: Path, source: Source, request: ModelRequest) -> _TimmSource:
    config = read_json(folder / CONFIG_FILE, source.location)
    architecture, stated = str(config.get("architecture")), config.get("pretrained_cfg", config)
    _check_name(architecture, source)
    requested = (request.spec.name or "").removeprefix(PREFIX).partition(".")[0]
    if (request.spec.name or "").startswith(PREFIX) and requested != architecture:
        raise UserError(
            f"model_name={request.spec.name!r}, but the {source.location} contains {PREFIX}{architecture}: omit"
            " model_name, or provide weights of that model."
        )
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if request.pretrained and weights is None:
        raise UserError(
            f"The weights in the {source.location} cannot be loaded: there is no {' and no '.join(_WEIGHTS)}."
        )
    pretrained_cfg = _pretrained_cfg(architecture)
    pretrained_cfg |= stated if isinstance(stated, dict) else {}
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    if isinstance(config.get("global_pool"), str):
        arguments = {"global_pool": config["global_pool"], **arguments}
    labels = config.get("label_names", pretrained_cfg.get("label_names"))
    return _TimmSource(
        architecture,
        source.location,
        source.description,
        weights if request.pretrained else None,
        pretrained_cfg,
        {name: value for name, value in arguments.items() if name not in _FACTORY_ARGUMENTS},
        tuple(map(str, labels)) if isinstance(labels, list) and labels else None,
    )


def _image_input(request: ModelRequest, source: Source, found: _TimmSource) -> ImageInput:
    """Return the preprocessing of the pretrained configuration, or that of an artifact."""
    from timm.data import config as untyped

    library: Any = untyped
    expects = input_from_artifact(source.artifact.get("preprocessing")) if source.artifact else None
    if expects is None:
        config = library.resolve_data_config({}, pretrained_cfg=dict(found.pretrained_cfg))
        expects = _convert_data_config(config, found.location)
    return with_depth(with_size(expects, request.image_size), request.sixteen_bit_depth, trained=request.trained)


def _convert_data_config(config: Mapping[str, Any], location: str) -> ImageInput:
    """Convert timm's data configuration.

    Raises:
        UserError: names the field that cannot be reproduced.
    """
    mean, std = channel_values(list(config["mean"])), channel_values(list(config["std"]))
    interpolation, crop = _INTERPOLATIONS.get(str(config["interpolation"])), config["crop_pct"]
    match tuple(config["input_size"]):
        case (3, int(height), int(width)) if height == width > 0:
            size = height
        case other:
            raise _unsupported_field_error(location, "input_size", other, "three channels and equal sides")
    if mean is None or std is None or min(std) <= 0:
        raise _unsupported_field_error(location, "mean and std", (config["mean"], config["std"]), "three numbers each")
    if interpolation is None:
        raise _unsupported_field_error(location, "interpolation", config["interpolation"], " or ".join(_INTERPOLATIONS))
    if config["crop_mode"] not in ("center", "squash"):
        raise _unsupported_field_error(location, "crop_mode", config["crop_mode"], "center or squash")
    if not isinstance(crop, int | float) or not 0 < crop <= 1:
        raise _unsupported_field_error(location, "crop_pct", crop, "above 0 and at most 1")
    return ImageInput(size, math.floor(size / crop), interpolation, mean, std, stretch=config["crop_mode"] == "squash")


def _unsupported_field_error(location: str, name: str, value: object, allowed: str) -> UserError:
    return UserError(
        f"{CONFIG_FILE} in the {location} has {name}={str(value)[:100]}, which is not supported: it must be {allowed}."
    )


def _create(found: _TimmSource, arguments: Mapping[str, object], seed: int) -> nn.Module:
    import timm as typed

    timm: Any = typed
    try:
        with seeded(seed, "network"):
            model: nn.Module = timm.create_model(
                found.architecture, pretrained=False, pretrained_cfg=dict(found.pretrained_cfg), **arguments
            )
    except _BUILD_ERRORS as error:
        raise UserError(
            f"The timm model {found.architecture!r} of the {found.location} cannot be built with {dict(arguments)}:"
            f" {' '.join(str(error).split())[:300]}."
        ) from error
    model.eval()
    return model


def _parts(model: nn.Module, found: _TimmSource) -> ModelParts:
    classifier = found.pretrained_cfg.get("classifier")
    if not isinstance(classifier, str) or not isinstance(model.get_submodule(classifier), nn.Linear):
        raise UserError(
            f"The timm model {found.architecture!r} is not supported: it has no single linear classifier"
            f" ({classifier!r}). Choose another architecture."
        )
    dropouts = tuple(
        path for path, module in model.named_modules() if path.endswith("drop") and isinstance(module, nn.Dropout)
    )
    head = tuple(path for path in dropouts if path.rpartition(".")[0] == classifier.rpartition(".")[0])
    return ModelParts("", classifier, tuple(path for path in head if "head" in path or path == "drop"))


def _find_layout(model: nn.Module, parts: ModelParts, expects: ImageInput, found: _TimmSource) -> ModelLayout:
    example = Normalizer(expects)({"pixels": example_pixels(expects.size)})
    run: Callable[[nn.Module], object] = lambda module: module(example)  # noqa: E731 - a callback
    try:
        return find_layout(model, parts, run)
    except UndividedModelError:
        return undivided_layout(model, parts)
    except _BUILD_ERRORS as error:
        raise UserError(
            f"image_size={expects.size} is not possible for the timm model {found.architecture!r}:"
            f" {' '.join(str(error).split())[:300]}."
        ) from error


def _load_weights(
    model: nn.Module, layout: ModelLayout, found: _TimmSource, source: Source, request: ModelRequest
) -> LoadedWeights:
    file = StateFile({}) if found.weights is None else read_state_file(found.weights)
    state = _convert_tensors(model, file.tensors, found)
    state, messages = strip_model_prefix(state, frozenset(model.state_dict()), found.description)
    report = compare_tensors(model, layout, state)
    if report.body_faults:
        raise UserError(
            f"The weights from the {found.description} belong to another model than {PREFIX}{found.architecture}:"
            f" {len(report.loaded)} of {len(report.expected)} tensors match; {summarize_faults(report.body_faults)}."
            " Set model_name to the architecture of the weights."
        )
    weight = state.get(f"{layout.classifier}.weight")
    head = None
    if weight is not None and weight.dim() > 0:
        labels = source.labels or found.labels
        check_class_count(source.labels, len(weight), found.location)
        labels = labels if labels and len(labels) == len(weight) else None
        head = SourceHead(len(weight), labels, source.problem_type, tuple(report.head_faults))
    rows = rows_to_keep(head, request)
    result = load_matching_tensors(model, layout, state, rows)
    check_finite({name: state[name] for name in result.loaded}, found.description)
    return LoadedWeights(
        found.description,
        result.loaded,
        result.newly_initialized,
        result.unused,
        None if head is None else head.labels,
        kept_head=rows is not None,
        initialized_outside_head=report.initialized_outside_head((layout.classifier,)),
        warnings=(*file.warnings, *messages, *partial_head_warning(head, kept=rows is not None)),
    )


def _convert_tensors(model: nn.Module, state: StateDict, found: _TimmSource) -> StateDict:
    """Apply timm's conversion of its architecture: older names, and position embeddings of another image size."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted: StateDict = convert(dict(state), model)
    except _BUILD_ERRORS as error:
        raise UserError(
            f"The weights from the {found.description} cannot be converted for {PREFIX}{found.architecture}:"
            f" {' '.join(str(error).split())[:300]}."
        ) from error
    return converted
