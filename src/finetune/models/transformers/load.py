"""Loads the weights and the head of a transformers model from a local folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune.errors import UserError
from finetune.models.backbone import LoadedWeights
from finetune.models.heads import (
    SourceHead,
    check_class_count,
    get_linear,
    partial_head_warning,
    rows_to_keep,
    seeded,
    set_head_dropout,
)
from finetune.models.layer_groups import ModelLayout, layer_groups
from finetune.models.request import ModelRequest
from finetune.models.structure import UndividedModelError, find_layout, undivided_layout
from finetune.models.transformers.class_names import read_head
from finetune.models.transformers.families import TransformersFamily
from finetune.models.transformers.folder import (
    CONFIG_ERRORS,
    ModelFolder,
    describe_error,
    one_line_message,
    quiet,
    unusable_config_error,
)
from finetune.models.transformers.folder_weights import read_folder_weights
from finetune.models.weights.loading_report import (
    MISSING,
    LoadingReport,
    check_finite,
    dtype_fault,
    format_faults,
    is_harmless,
    shape_fault,
    summarize_faults,
)
from finetune.models.weights.state_dict import StateDict, reraise_system_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Last name components that only trained tensors have.
_TRAINED_SUFFIXES = frozenset(
    {
        "weight",
        "bias",
        "gamma",
        "beta",
        "q_bias",
        "v_bias",
        "running_mean",
        "running_var",
        "relative_position_bias_table",
        "cls_token",
        "distillation_token",
        "position_embeddings",
    }
)
# Allowance for masks and position ids, which may exceed the weights in number.
_BUFFER_ALLOWANCE = 64 * 2**20

FindLayout = Callable[["PreTrainedModel"], ModelLayout]
"""Returns the layer layout of a model."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its head, the origin of its weights, and its layer layout."""

    model: PreTrainedModel
    weights: LoadedWeights
    layout: ModelLayout


def load_model(request: ModelRequest, model_folder: ModelFolder, example: Callable[[nn.Module], object]) -> LoadedModel:
    """Build the model in a folder, with its weights or random ones, and set its head.

    Args:
        request: requested model.
        model_folder: folder; its configuration is updated to that of the new classifier.
        example: runs a model on `EXAMPLE_RECORDS` records.

    Raises:
        UserError: the weights are missing, damaged, or belong to another model.
    """
    config, family = model_folder.config, model_folder.family
    find = partial(_find_layout, model_folder=model_folder, example=example)
    config.dtype = torch.float32
    if request.spec.dropout is not None and family.dropout is not None:
        setattr(config, family.dropout, request.spec.dropout)
    if request.pretrained:
        model, weights, layout = _load_pretrained(request, model_folder, find)
    else:
        _set_config_classes(config, request)
        model = _build_random(request, model_folder)
        layout = find(model)
        weights = LoadedWeights("random", newly_initialized=tuple(model.state_dict()))
    _initialize_head(model, layout, weights.newly_initialized, request.seed)
    if request.spec.dropout is not None and family.dropout is None:
        set_head_dropout(model, layout.head.split(), layout.classifier, request.spec.dropout)
    return LoadedModel(model, weights, layout)


def _find_layout(
    model: PreTrainedModel, model_folder: ModelFolder, example: Callable[[nn.Module], object]
) -> ModelLayout:
    """Return the layout in the table, or find it from the structure of the model.

    Raises:
        UserError: the model cannot process the example.
    """
    family = model_folder.family
    if family.layout is not None:
        return family.layout
    model.train(mode=False)
    try:
        with quiet():
            return find_layout(model, family.parts, example)
    except UndividedModelError:
        return undivided_layout(model, family.parts)
    except CONFIG_ERRORS as error:
        reraise_system_error(error)
        raise unusable_config_error(model_folder.source, describe_error(error)) from error


def _load_pretrained(
    request: ModelRequest, model_folder: ModelFolder, find: FindLayout
) -> tuple[PreTrainedModel, LoadedWeights, ModelLayout]:
    """Load the model as the folder describes it, then set the requested head."""
    source, config, family = model_folder.source, model_folder.config, model_folder.family
    weights_file = getattr(config, "transformers_weights", None)
    folder_weights = read_folder_weights(model_folder.folder, source.location, weights_file, family.base)
    tensors = {**folder_weights.tensors, **(model_folder.pooling.tensors if model_folder.pooling else {})}
    config_head = read_head(model_folder)
    if config_head.uncertain and (not request.trained or request.spec.reinitialize_top_layer == "false"):
        rows_to_keep(config_head, request)
    head: SourceHead | None = config_head
    config_labels = config_head.labels
    if config_labels is not None and source.labels is None:
        # With label2id alone, transformers assumes two classes.
        config.id2label = dict(enumerate(config_labels))
    if not _classifier_matches_config(request, model_folder, tensors):
        _set_config_classes(config, request)
    _check_dtypes(tensors, source.location)
    _check_claimed_size(model_folder, tensors)
    model, layout, report = _load_tensors(request, model_folder, tensors, find)
    if report.body_faults:
        raise _mismatch_error(model_folder, report)
    root = family.classifier.partition(".")[0]
    head = replace(head, faults=tuple(report.head_faults)) if head and report.has_prefix(f"{root}.") else None
    rows = rows_to_keep(head, request)
    _set_classifier(model, family, rows, len(request.labels))
    _set_config_classes(model.config, request)
    classifier = f"{family.classifier}."
    new_names = {name for name in report.faults if rows is not None or not name.startswith(classifier)}
    names = tuple(model.state_dict())
    if rows is None:
        new_names.update(name for name in names if name.startswith(classifier))
    state = model.state_dict()
    check_finite({name: state[name] for name in names if name not in new_names}, source.description)
    loaded = LoadedWeights(
        source=source.description if source.path is not None else f"hub ({source.name})",
        loaded=tuple(name for name in names if name not in new_names),
        newly_initialized=tuple(name for name in names if name in new_names),
        unused=report.unused,
        labels=config_labels,
        kept_head=rows is not None,
        initialized_outside_head=report.initialized_outside_head((root,)),
        warnings=(*folder_weights.warnings, *partial_head_warning(head, kept=rows is not None)),
    )
    return model, loaded, layout


def _set_config_classes(config: Any, request: ModelRequest) -> None:  # noqa: ANN401 - its fields differ by family
    config.id2label = dict(enumerate(request.labels))
    config.label2id = {label: index for index, label in enumerate(request.labels)}
    config.problem_type = request.problem_type


def _build_random(request: ModelRequest, model_folder: ModelFolder) -> PreTrainedModel:
    try:
        with quiet(), seeded(request.seed, "network"):
            model: PreTrainedModel = model_folder.model_class(model_folder.config)
            return model
    except CONFIG_ERRORS as error:
        reraise_system_error(error)
        raise unusable_config_error(model_folder.source, describe_error(error)) from error


def _classifier_matches_config(request: ModelRequest, model_folder: ModelFolder, tensors: StateDict) -> bool:
    """Return whether the weights contain a classifier with one row per class of the configuration.

    Raises:
        UserError: the number of rows differs, and the classifier would not be replaced anyway.
    """
    name = f"{model_folder.family.classifier}.weight"
    weight, classes = tensors.get(name), int(model_folder.config.num_labels)
    if weight is None or weight.dim() == 0:
        return False
    if len(weight) != classes and request.spec.reinitialize_top_layer != "true":
        raise UserError(
            f"config.json in the {model_folder.source.location} has {classes} classes, but {name} has {len(weight)}"
            " rows: correct id2label and num_labels, or set reinitialize_top_layer=true for a new top layer."
        )
    if len(weight) == classes:
        check_class_count(model_folder.source.labels, classes, model_folder.source.location)
    return len(weight) == classes


def _check_dtypes(tensors: StateDict, location: str) -> None:
    """Refuse tensors whose values would be misread, such as integers of quantized weights."""
    reasons = {name: dtype_fault(tensor, floating=True) for name, tensor in tensors.items()}
    dtype_faults = {name: reason for name, reason in reasons.items() if reason is not None and not is_harmless(name)}
    if dtype_faults:
        raise UserError(
            f"The weights in the {location} cannot be loaded: {summarize_faults(format_faults(dtype_faults))}. Provide"
            " weights in float32, float16 or bfloat16."
        )


def _check_claimed_size(model_folder: ModelFolder, tensors: StateDict) -> None:
    """Refuse a configuration that describes a larger model than the weights fill, before allocating its memory."""
    try:
        with quiet(), torch.device("meta"):
            model = model_folder.model_class(model_folder.config)
    except CONFIG_ERRORS as error:
        raise unusable_config_error(model_folder.source, describe_error(error)) from error
    classifier = f"{model_folder.family.classifier}."
    parts = [*model.named_parameters(), *model.named_buffers()]
    model_elements = sum(part.numel() for name, part in parts if not name.startswith(classifier))
    weight_elements = sum(tensor.numel() for tensor in tensors.values())
    if model_elements > 2 * weight_elements + _BUFFER_ALLOWANCE:
        raise UserError(
            f"config.json in the {model_folder.source.location} describes a model with {model_elements} values, but"
            f" the weights contain {weight_elements}: they do not match. Provide weights and config.json as"
            " save_pretrained() wrote them together."
        )


def _load_tensors(
    request: ModelRequest, model_folder: ModelFolder, tensors: StateDict, find: FindLayout
) -> tuple[PreTrainedModel, ModelLayout, LoadingReport]:
    """Load the model with `from_pretrained` and convert its loading info to a report."""
    try:
        with quiet(), seeded(request.seed, "network"):
            model, info = model_folder.model_class.from_pretrained(
                None,
                config=model_folder.config,
                state_dict=tensors,
                dtype=torch.float32,
                # Shape mismatches are checked below, with all other faults.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except CONFIG_ERRORS as error:
        reraise_system_error(error)
        raise UserError(
            f"The weights in the {model_folder.source.location} cannot be loaded: {one_line_message(error)}."
        ) from error
    faults = dict.fromkeys(info["missing_keys"], MISSING)
    faults |= {name: shape_fault(shape, expected) for name, shape, expected in info["mismatched_keys"]}
    unused = tuple(sorted(info["unexpected_keys"]))
    layout = find(model)
    root = layout.classifier.partition(".")[0]
    foreign = [
        name for name in unused if name.startswith(f"{root}.") or _is_trained_body_tensor(name, model_folder.family)
    ]
    report = LoadingReport(
        expected=tuple(model.state_dict()),
        faults=faults,
        foreign=dict.fromkeys(foreign, "is unexpected"),
        unused=unused,
        head=(*layer_groups(model, layout)[-1].parameters, f"{root}."),
    )
    return model, layout, report


def _is_trained_body_tensor(name: str, family: TransformersFamily) -> bool:
    """Return whether an unexpected tensor is a trained one of the layers before the head."""
    body_prefixes = tuple(f"{prefix}{part}." for prefix in {f"{family.base}.", ""} for part in family.encoder_parts)
    return name.startswith(body_prefixes) and name.rpartition(".")[2] in _TRAINED_SUFFIXES and not is_harmless(name)


def _mismatch_error(model_folder: ModelFolder, report: LoadingReport) -> UserError:
    return UserError(
        f"The weights in the {model_folder.source.location} belong to another model than its config.json describes:"
        f" {len(report.loaded)} of {len(report.expected)} tensors match; {summarize_faults(report.body_faults)}."
        " Provide weights and config.json as save_pretrained() wrote them together."
    )


def _set_classifier(
    model: Any,  # noqa: ANN401 - transformers types its attributes as tensors or modules
    family: TransformersFamily,
    rows: tuple[int, ...] | None,
    classes: int,
) -> None:
    """Keep `rows` of the last layer, in their order, or replace the layer by one for `classes`."""
    path = family.classifier
    classifier = get_linear(model, path)
    if rows is None:
        # `_initialize_head` initializes its values with all other new parameters of the head.
        new = nn.Linear(classifier.in_features, classes, bias=classifier.bias is not None, device="meta")
        model.set_submodule(path, new.to_empty(device="cpu"))
    else:
        with torch.no_grad():
            for parameter in classifier.parameters():
                parameter.copy_(parameter[list(rows)].clone())
    model.num_labels = classes


def _initialize_head(model: nn.Module, layout: ModelLayout, new_names: Sequence[str], seed: int) -> None:
    """Initialize the new parameters of the head, each as a function of seed and name only."""
    std = float(getattr(model.config, "initializer_range", 0.02))
    for name in set(new_names).intersection(layer_groups(model, layout)[-1].parameters):
        parameter = model.get_parameter(name)
        with seeded(seed, name), torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, std)
