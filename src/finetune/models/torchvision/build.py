"""Builds a torchvision classifier: selects the architecture, loads the weights and sets the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings

from finetune.errors import UserError, did_you_mean
from finetune.models.backbone import ImageInput, LoadedWeights
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
from finetune.models.preprocessing import input_from_artifact, torchvision_input, with_depth, with_size
from finetune.models.request import ModelRequest
from finetune.models.torchvision.backbone import TorchvisionBackbone
from finetune.models.torchvision.families import FAMILIES, family_of, torchvision_names
from finetune.models.weights.loading_report import LoadingReport, check_finite
from finetune.models.weights.locate import IMAGE_WEIGHTS, missing_weights_error
from finetune.models.weights.matching import compare_tensors, load_matching_tensors, matching_models, mismatch_error
from finetune.models.weights.sources import Source
from finetune.models.weights.state_dict import (
    StateDict,
    StateFile,
    read_state_file,
    rename_legacy_tensors,
    strip_model_prefix,
)
from finetune.models.weights.unsupported_formats import refuse_foreign_tensors

# Below this image size, the feature map is too small for the auxiliary classifier of Inception.
_INCEPTION_AUXILIARY_SIZE = 299
_POSITIONS = "encoder.pos_embedding"


def build_torchvision(request: ModelRequest, source: Source) -> TorchvisionBackbone:
    """Build a torchvision classifier with the weights of `source`, or random ones if none are requested.

    Raises:
        UserError: the model, its size, its weights or its head do not match the request.
    """
    file = _read_source_file(source)
    state = None if file is None else rename_legacy_tensors(file.tensors)
    name = _model_name(request, source, state)
    expects = _image_input(name, request, source)
    state, description = _state_dict(name, request, source, state)
    layout = FAMILIES[family_of(name)]
    arguments = _builder_arguments(name, expects.size, len(request.labels))
    model = _build_random_model(name, arguments, request.seed, overwritten=state is not None)
    _reset_classifiers(model, layout, request.seed)
    weights = LoadedWeights("random", newly_initialized=tuple(model.state_dict()))
    if state is not None:
        weights = _load_weights(
            model, _Origin(name, description, source, () if file is None else file.warnings), state, request
        )
    if request.spec.dropout is not None:
        set_head_dropout(model, layout.head.split(), layout.classifier, request.spec.dropout)
    return TorchvisionBackbone(name, model, expects, weights, layout, arguments)


def _read_source_file(source: Source) -> StateFile | None:
    if source.path is None:
        return None
    file = read_state_file(source.path)
    refuse_foreign_tensors(file.tensors, source.path, source.location)
    return file


def _model_name(request: ModelRequest, source: Source, state: StateDict | None) -> str:
    requested = None if (request.spec.name or "").startswith(("/", "./")) else request.spec.name
    if source.kind == "torchvision artifact" and requested not in (None, source.name):
        raise UserError(
            f"model_name={requested!r}, but the {source.location} contains a {source.name}: omit model_name,"
            f" or set it to {source.name!r}."
        )
    name = source.name or requested or _infer_model_name(source.path, state or {})
    if name not in torchvision_names():
        subject = f"model_name={name!r}" if name == requested else f"The model {name!r} in the {source.location}"
        raise UserError(
            f"{subject} is not a supported torchvision classifier{did_you_mean(name, torchvision_names())}: set"
            " model_name to one, or provide an artifact or a transformers folder instead of a state dict."
        )
    return name


def _infer_model_name(path: Path | None, state: StateDict) -> str:
    """Infer the model name from the file name, such as `resnet18-f37072fd.pth`, or from the tensors."""
    stem = "" if path is None else path.stem.partition("-")[0]
    if stem in torchvision_names():
        return stem
    matches = matching_models(state)
    if len(matches) == 1:
        return matches[0]
    hint = f" They match {' and '.join(repr(name) for name in matches)}." if matches else ""
    raise UserError(f"The model of the weights in {path and path.name} cannot be inferred: set model_name.{hint}")


def _image_input(name: str, request: ModelRequest, source: Source) -> ImageInput:
    earlier = input_from_artifact(source.artifact.get("preprocessing")) if source.artifact else None
    expects = with_size(earlier or torchvision_input(name), request.image_size)
    expects = with_depth(expects, request.sixteen_bit_depth, trained=request.trained)
    if family_of(name) == "vision_transformer":
        patch = int(name.rpartition("_")[2])
        if expects.size % patch:
            lower = max(patch, expects.size // patch * patch)
            raise UserError(
                f"image_size={expects.size} is not a multiple of the patch size of {name} ({patch} pixels):"
                f" choose one, such as {lower}."
            )
    smallest = _min_image_size(name)
    if expects.size < smallest:
        raise UserError(f"image_size={expects.size} is too small for {name}: choose {smallest} or more.")
    return expects


def _min_image_size(name: str) -> int:
    """Return the minimum image size in pixels; torchvision's `min_size` is no limit for its transformers."""
    if family_of(name) == "vision_transformer":
        return 1
    if family_of(name) == "swin_transformer":
        return 32
    return int(get_model_weights(name).DEFAULT.meta["min_size"][0])


def _state_dict(
    name: str, request: ModelRequest, source: Source, state: StateDict | None
) -> tuple[StateDict | None, str]:
    if not request.pretrained:
        return None, "random"
    if state is not None:
        return state, source.description
    weights = get_model_weights(name).DEFAULT
    try:
        downloaded = weights.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except (URLError, OSError, RuntimeError) as error:
        raise missing_weights_error(request, name, str(error)) from error
    return rename_legacy_tensors(downloaded), f"hub (torchvision, {weights.name})"


def _builder_arguments(name: str, size: int, classes: int) -> dict[str, object]:
    arguments: dict[str, object] = {"num_classes": classes}
    family = family_of(name)
    if family == "vision_transformer":
        arguments["image_size"] = size
    if family in {"inception", "googlenet"}:
        auxiliary = family == "googlenet" or size >= _INCEPTION_AUXILIARY_SIZE
        # Their weights were trained with another normalization, which torchvision applies with `transform_input`.
        arguments |= {"aux_logits": auxiliary, "transform_input": True, "init_weights": False}
    return arguments


def _build_random_model(name: str, arguments: Mapping[str, object], seed: int, *, overwritten: bool) -> nn.Module:
    # Initializing GoogLeNet and Inception takes seconds, which is wasted if the weights are loaded afterwards.
    if "init_weights" in arguments:
        arguments = {**arguments, "init_weights": not overwritten}
    with seeded(seed, "network"):
        model: nn.Module = get_model(name, weights=None, **arguments)
    return model


def _reset_classifiers(model: nn.Module, layout: ModelLayout, seed: int) -> None:
    for path in layout.classifiers(model):
        with seeded(seed, path):
            get_linear(model, path).reset_parameters()


def _source_head(origin: _Origin, state: StateDict, layout: ModelLayout, report: LoadingReport) -> SourceHead | None:
    weight = state.get(f"{layout.classifier}.weight")
    # Other tensors under the classifier's path belong to a head of another structure.
    faults = tuple(report.head_faults)
    if weight is None and not report.has_prefix(f"{layout.classifier}."):
        return None
    labels = source_labels(origin.name, origin.source)
    classes = 0 if weight is None or weight.dim() == 0 else len(weight)
    if not faults:
        check_class_count(origin.source.labels, classes, origin.source.location)
    return SourceHead(
        classes, labels if labels and len(labels) == classes else None, origin.source.problem_type, faults
    )


def source_labels(name: str | None, source: Source) -> tuple[str, ...] | None:
    """Return the class names in the order of the outputs, from the source or else from torchvision's weights."""
    is_pretrained = name in torchvision_names() and (source.kind == "hub" or source.location == IMAGE_WEIGHTS)
    if source.labels is not None or not is_pretrained:
        return source.labels
    return tuple(get_model_weights(name).DEFAULT.meta["categories"])


@dataclass(frozen=True, slots=True)
class _Origin:
    """A model's name and the origin of its weights: description, source, and log messages about the file."""

    name: str
    description: str
    source: Source
    warnings: tuple[str, ...]


def _load_weights(model: nn.Module, origin: _Origin, state: StateDict, request: ModelRequest) -> LoadedWeights:
    layout = FAMILIES[family_of(origin.name)]
    state, messages = strip_model_prefix(state, frozenset(model.state_dict()), origin.description)
    state = _interpolate_positions(model, state)
    report = compare_tensors(model, layout, state)
    if report.body_faults:
        raise mismatch_error(origin.name, origin.description, state, report)
    head = _source_head(origin, state, layout, report)
    rows = rows_to_keep(head, request)
    result = load_matching_tensors(model, layout, state, rows)
    check_finite({name: state[name] for name in result.loaded}, origin.description)
    # With a new head, the last layers of auxiliary classifiers are newly initialized too.
    new_classifiers = layout.classifiers(model) if rows is None else (layout.classifier,)
    return LoadedWeights(
        origin.description,
        result.loaded,
        result.newly_initialized,
        result.unused,
        None if head is None else head.labels,
        kept_head=rows is not None,
        initialized_outside_head=report.initialized_outside_head(new_classifiers),
        warnings=(*origin.warnings, *messages, *partial_head_warning(head, kept=rows is not None)),
    )


def _interpolate_positions(model: nn.Module, state: StateDict) -> StateDict:
    """Interpolate the position embeddings of a vision transformer to the model's image size."""
    positions = state.get(_POSITIONS)
    size, patch = getattr(model, "image_size", None), getattr(model, "patch_size", None)
    if positions is None or not isinstance(size, int) or not isinstance(patch, int):
        return state
    # Any other shape or type is reported later with all other tensors.
    if positions.dim() != 3 or len(positions) != 1 or not positions.is_floating_point():
        return state
    side = round((positions.shape[1] - 1) ** 0.5)
    if positions.shape[1] < 2 or side * side + 1 != positions.shape[1]:
        return state
    interpolated: StateDict = interpolate_embeddings(size, patch, {**state, _POSITIONS: positions.float()})
    return interpolated
