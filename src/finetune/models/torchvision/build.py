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
    linear_at,
    partial_head_warning,
    refuse_other_count,
    rows_to_keep,
    seeded,
    set_head_dropout,
)
from finetune.models.layer_groups import ModelLayout
from finetune.models.preprocessing import earlier_input, torchvision_input, with_depth, with_size
from finetune.models.request import ModelRequest
from finetune.models.torchvision.backbone import TorchvisionBackbone
from finetune.models.torchvision.families import FAMILIES, family_of, vision_names
from finetune.models.weights.foreign_folders import refuse_foreign_tensors
from finetune.models.weights.loading_report import LoadingReport, refuse_infinite
from finetune.models.weights.locate import BAKED, no_weights
from finetune.models.weights.matching import compare, load_fitting, misfit, recognise
from finetune.models.weights.sources import Source
from finetune.models.weights.state_dict import StateDict, StateFile, modern_names, read_state_file, without_prefix

# Below this image size, the feature map is too small for the auxiliary classifier of Inception.
_INCEPTION_AUXILIARY_SIZE = 299
_POSITIONS = "encoder.pos_embedding"


def build_vision(request: ModelRequest, source: Source) -> TorchvisionBackbone:
    """Build a torchvision classifier with the weights of `source`, or random ones if none are requested.

    Raises:
        UserError: the model, its size, its weights or its head do not match the request.
    """
    file = _read(source)
    state = None if file is None else modern_names(file.tensors)
    name = _name(request, source, state)
    expects = _expects(name, request, source)
    state, words = _weights(name, request, source, state)
    anatomy = FAMILIES[family_of(name)]
    arguments = _arguments(name, expects.size, len(request.labels))
    network = _random_network(name, arguments, request.seed, overwritten=state is not None)
    _new_classifiers(network, anatomy, request.seed)
    weights = LoadedWeights("random", newly_initialized=tuple(network.state_dict()))
    if state is not None:
        weights = _load(network, _Origin(name, words, source, () if file is None else file.warnings), state, request)
    if request.spec.dropout is not None:
        set_head_dropout(network, anatomy.head.split(), anatomy.classifier, request.spec.dropout)
    return TorchvisionBackbone(name, network, expects, weights, anatomy, arguments)


def _read(source: Source) -> StateFile | None:
    if source.path is None:
        return None
    file = read_state_file(source.path)
    refuse_foreign_tensors(file.tensors, source.path, source.place)
    return file


def _name(request: ModelRequest, source: Source, state: StateDict | None) -> str:
    asked = None if (request.spec.name or "").startswith(("/", "./")) else request.spec.name
    if source.kind == "torchvision artifact" and asked not in (None, source.name):
        raise UserError(
            f"model_name={asked!r}, but the {source.place} holds a {source.name}: leave model_name away,"
            f" or set it to {source.name!r}."
        )
    name = source.name or asked or _name_of_state(source.path, state or {})
    if name not in vision_names():
        place = f"model_name={name!r}" if name == asked else f"The network {name!r} in the {source.place}"
        raise UserError(
            f"{place} is no classifier of torchvision that is known{did_you_mean(name, vision_names())}: set model_name"
            " to one, or give an artifact or a transformers folder instead of a state dict."
        )
    return name


def _name_of_state(path: Path | None, state: StateDict) -> str:
    """Infer the model name from the file name, such as `resnet18-f37072fd.pth`, or from the tensors."""
    stem = "" if path is None else path.stem.partition("-")[0]
    if stem in vision_names():
        return stem
    found = recognise(state)
    if len(found) == 1:
        return found[0]
    hint = f" They fit {' and '.join(repr(name) for name in found)}." if found else ""
    raise UserError(f"Which network do the weights in {path and path.name} belong to? Set model_name.{hint}")


def _expects(name: str, request: ModelRequest, source: Source) -> ImageInput:
    earlier = earlier_input(source.artifact.get("preprocessing")) if source.artifact else None
    expects = with_size(earlier or torchvision_input(name), request.image_size)
    expects = with_depth(expects, request.sixteen_bit_depth, trained=request.trained)
    if family_of(name) == "vision_transformer":
        patch = int(name.rpartition("_")[2])
        if expects.size % patch:
            lower = max(patch, expects.size // patch * patch)
            raise UserError(
                f"image_size={expects.size} does not suit {name}, whose patches are {patch} pixels wide:"
                f" choose a multiple of {patch}, such as {lower}."
            )
    smallest = _smallest(name)
    if expects.size < smallest:
        raise UserError(f"image_size={expects.size} is too small for {name}: choose {smallest} or more.")
    return expects


def _smallest(name: str) -> int:
    """Return the minimum image size in pixels; torchvision's `min_size` is no limit for its transformers."""
    if family_of(name) == "vision_transformer":
        return 1
    if family_of(name) == "swin_transformer":
        return 32
    return int(get_model_weights(name).DEFAULT.meta["min_size"][0])


def _weights(name: str, request: ModelRequest, source: Source, state: StateDict | None) -> tuple[StateDict | None, str]:
    if not request.pretrained:
        return None, "random"
    if state is not None:
        return state, source.words
    weights = get_model_weights(name).DEFAULT
    try:
        downloaded = weights.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except (URLError, OSError, RuntimeError) as error:
        raise no_weights(request, name, str(error)) from error
    return modern_names(downloaded), f"hub (torchvision, {weights.name})"


def _arguments(name: str, size: int, classes: int) -> dict[str, object]:
    arguments: dict[str, object] = {"num_classes": classes}
    family = family_of(name)
    if family == "vision_transformer":
        arguments["image_size"] = size
    if family in {"inception", "googlenet"}:
        auxiliary = family == "googlenet" or size >= _INCEPTION_AUXILIARY_SIZE
        # Their weights were trained with another normalization, which torchvision applies with `transform_input`.
        arguments |= {"aux_logits": auxiliary, "transform_input": True, "init_weights": False}
    return arguments


def _random_network(name: str, arguments: Mapping[str, object], seed: int, *, overwritten: bool) -> nn.Module:
    # Initializing GoogLeNet and Inception takes seconds, which is wasted if the weights are loaded afterwards.
    if "init_weights" in arguments:
        arguments = {**arguments, "init_weights": not overwritten}
    with seeded(seed, "network"):
        network: nn.Module = get_model(name, weights=None, **arguments)
    return network


def _new_classifiers(network: nn.Module, anatomy: ModelLayout, seed: int) -> None:
    for path in anatomy.classifiers(network):
        with seeded(seed, path):
            linear_at(network, path).reset_parameters()


def _source_head(origin: _Origin, state: StateDict, anatomy: ModelLayout, report: LoadingReport) -> SourceHead | None:
    weight = state.get(f"{anatomy.classifier}.weight")
    # Other tensors under the classifier's path belong to a head of another structure.
    faults = tuple(report.head_faults)
    if weight is None and not report.has_any_of(f"{anatomy.classifier}."):
        return None
    labels = labels_of_name(origin.name, origin.source)
    classes = 0 if weight is None or weight.dim() == 0 else len(weight)
    if not faults:
        refuse_other_count(origin.source.labels, classes, origin.source.place)
    return SourceHead(classes, labels if labels and len(labels) == classes else None, origin.source.multi_label, faults)


def labels_of_name(name: str | None, source: Source) -> tuple[str, ...] | None:
    """Return the class names in the order of the outputs, from the source or else from torchvision's weights."""
    torchvisions = name in vision_names() and (source.kind == "hub" or source.place == BAKED)
    if source.labels is not None or not torchvisions:
        return source.labels
    return tuple(get_model_weights(name).DEFAULT.meta["categories"])


@dataclass(frozen=True, slots=True)
class _Origin:
    """A model's name and the origin of its weights: description, source, and log messages about the file."""

    name: str
    words: str
    source: Source
    warnings: tuple[str, ...]


def _load(network: nn.Module, origin: _Origin, state: StateDict, request: ModelRequest) -> LoadedWeights:
    anatomy = FAMILIES[family_of(origin.name)]
    state, notes = without_prefix(state, frozenset(network.state_dict()), origin.words)
    state = _at_size_of(network, state)
    report = compare(network, anatomy, state)
    if report.body_faults:
        raise misfit(origin.name, origin.words, state, report)
    head = _source_head(origin, state, anatomy, report)
    rows = rows_to_keep(head, request)
    fit = load_fitting(network, anatomy, state, rows)
    refuse_infinite({name: state[name] for name in fit.loaded}, origin.words)
    # With a new head, the last layers of auxiliary classifiers are newly initialized too.
    new = anatomy.classifiers(network) if rows is None else (anatomy.classifier,)
    return LoadedWeights(
        origin.words,
        fit.loaded,
        fit.newly_initialized,
        fit.unused,
        None if head is None else head.labels,
        kept_head=rows is not None,
        initialized=report.initialized(new),
        warnings=(*origin.warnings, *notes, *partial_head_warning(head, kept=rows is not None)),
    )


def _at_size_of(network: nn.Module, state: StateDict) -> StateDict:
    """Interpolate the position embeddings of a vision transformer to the model's image size."""
    positions = state.get(_POSITIONS)
    size, patch = getattr(network, "image_size", None), getattr(network, "patch_size", None)
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
