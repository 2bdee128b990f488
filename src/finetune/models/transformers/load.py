"""Loads the weights and the head of a transformers model from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune.errors import UserError
from finetune.models.backbone import LoadedWeights
from finetune.models.heads import (
    SourceHead,
    linear_at,
    partial_head_warning,
    refuse_other_count,
    rows_to_keep,
    seeded,
    set_head_dropout,
)
from finetune.models.layer_groups import Children, layer_groups
from finetune.models.request import ModelRequest
from finetune.models.transformers.class_names import head_of
from finetune.models.transformers.families import TransformersFamily
from finetune.models.transformers.folder import (
    CONFIG_ERRORS,
    OpenedFolder,
    first_line,
    quiet,
    reason_of,
    unusable_config,
)
from finetune.models.transformers.folder_weights import FolderWeights, read_folder_weights
from finetune.models.weights.loading_report import (
    MISSING,
    LoadingReport,
    is_harmless,
    not_numbers,
    other_shape,
    refuse_infinite,
    sentences,
    shortened,
)
from finetune.models.weights.state_dict import StateDict, raise_if_of_the_machine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Last name components that only trained tensors have.
_TRAINED = frozenset(
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
_SPARE_ELEMENTS = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its head, and the origin of its weights."""

    network: PreTrainedModel
    weights: LoadedWeights


def load_network(request: ModelRequest, opened: OpenedFolder) -> Loaded:
    """Build the model in a folder, with its weights or random ones, and set its head.

    Args:
        request: requested model.
        opened: folder; its configuration is updated to that of the new classifier.

    Raises:
        UserError: the weights are missing, damaged, or belong to another model.
    """
    config, family = opened.config, opened.family
    config.dtype = torch.float32
    if request.spec.dropout is not None and family.dropout is not None:
        setattr(config, family.dropout, request.spec.dropout)
    if request.pretrained:
        network, weights = _pretrained(request, opened)
    else:
        _describe_classes(config, request)
        network = _random(request, opened)
        weights = LoadedWeights("random", newly_initialized=tuple(network.state_dict()))
    _draw_head(network, family, weights.newly_initialized, request.seed)
    if request.spec.dropout is not None and family.dropout is None:
        set_head_dropout(network, family.anatomy.head.split(), family.anatomy.classifier, request.spec.dropout)
    return Loaded(network, weights)


def _pretrained(request: ModelRequest, opened: OpenedFolder) -> tuple[PreTrainedModel, LoadedWeights]:
    """Load the model as the folder describes it, then set the requested head."""
    source, config, family = opened.source, opened.config, opened.family
    base = family.anatomy.stem.partition(".")[0]
    named = getattr(config, "transformers_weights", None)
    files = read_folder_weights(opened.folder, source.place, named, base)
    described = head_of(opened)
    if described.uncertain and (not request.trained or request.spec.reinitialize_top_layer == "false"):
        rows_to_keep(described, request)
    head: SourceHead | None = described
    theirs = described.labels
    if theirs is not None and source.labels is None:
        # With label2id alone, transformers assumes two classes.
        config.id2label = dict(enumerate(theirs))
    if not _has_rows_of_its_classes(request, opened, files.tensors):
        _describe_classes(config, request)
    _refuse_other_numbers(files, source.place)
    _refuse_claims(opened, files.tensors)
    network, report = _from_tensors(request, opened, files.tensors)
    if report.body_faults:
        raise _misfit(opened, report)
    root = family.anatomy.classifier.partition(".")[0]
    head = replace(head, faults=tuple(report.head_faults)) if head and report.has_any_of(f"{root}.") else None
    rows = rows_to_keep(head, request)
    _set_classifier(network, family, rows, len(request.labels))
    _describe_classes(network.config, request)
    classifier = f"{family.anatomy.classifier}."
    fresh = {name for name in report.faults if rows is not None or not name.startswith(classifier)}
    names = tuple(network.state_dict())
    if rows is None:
        fresh.update(name for name in names if name.startswith(classifier))
    state = network.state_dict()
    refuse_infinite({name: state[name] for name in names if name not in fresh}, source.words)
    return network, LoadedWeights(
        source=source.words if source.path is not None else f"hub ({source.name})",
        loaded=tuple(name for name in names if name not in fresh),
        newly_initialized=tuple(name for name in names if name in fresh),
        unused=report.unused,
        labels=theirs,
        kept_head=rows is not None,
        initialized=report.initialized((root,)),
        warnings=(*files.warnings, *partial_head_warning(head, kept=rows is not None)),
    )


def _describe_classes(config: Any, request: ModelRequest) -> None:  # noqa: ANN401 - its fields differ by family
    config.id2label = dict(enumerate(request.labels))
    config.label2id = {label: index for index, label in enumerate(request.labels)}
    config.problem_type = "multi_label_classification" if request.multi_label else "single_label_classification"


def _class_of(opened: OpenedFolder) -> type[PreTrainedModel]:
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as IMAGES
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as TEXTS

    mapping: Any = IMAGES if opened.family.task == "image-classification" else TEXTS
    chosen: type[PreTrainedModel] = mapping[type(opened.config)]
    return chosen


def _random(request: ModelRequest, opened: OpenedFolder) -> PreTrainedModel:
    try:
        with quiet(), seeded(request.seed, "network"):
            return _class_of(opened)(opened.config)
    except CONFIG_ERRORS as error:
        raise_if_of_the_machine(error)
        raise unusable_config(opened.source, reason_of(error)) from error


def _has_rows_of_its_classes(request: ModelRequest, opened: OpenedFolder, tensors: StateDict) -> bool:
    """Return whether the weights contain a classifier with one row per class of the configuration.

    Raises:
        UserError: the number of rows differs, and the classifier would not be replaced anyway.
    """
    name = f"{opened.family.anatomy.classifier}.weight"
    weight, classes = tensors.get(name), int(opened.config.num_labels)
    if weight is None or weight.dim() == 0:
        return False
    if len(weight) != classes and request.spec.reinitialize_top_layer != "true":
        raise UserError(
            f"config.json in the {opened.source.place} names {classes} classes, but {name} has {len(weight)} rows:"
            " correct id2label and num_labels, or set reinitialize_top_layer=true for a new top layer."
        )
    if len(weight) == classes:
        refuse_other_count(opened.source.labels, classes, opened.source.place)
    return len(weight) == classes


def _refuse_other_numbers(files: FolderWeights, place: str) -> None:
    """Refuse tensors whose values would be misread, such as integers of quantized weights."""
    reasons = {name: not_numbers(tensor, floating=True) for name, tensor in files.tensors.items()}
    wrong = {name: reason for name, reason in reasons.items() if reason is not None and not is_harmless(name)}
    if wrong:
        raise UserError(
            f"The weights in the {place} cannot be loaded: {shortened(sentences(wrong))}. Give weights in float32,"
            " float16 or bfloat16."
        )


def _refuse_claims(opened: OpenedFolder, tensors: StateDict) -> None:
    """Refuse a configuration that describes a larger model than the weights fill, before allocating its memory."""
    try:
        with quiet(), torch.device("meta"):
            network = _class_of(opened)(opened.config)
    except CONFIG_ERRORS as error:
        raise unusable_config(opened.source, reason_of(error)) from error
    classifier = f"{opened.family.anatomy.classifier}."
    parts = [*network.named_parameters(), *network.named_buffers()]
    claimed = sum(part.numel() for name, part in parts if not name.startswith(classifier))
    held = sum(tensor.numel() for tensor in tensors.values())
    if claimed > 2 * held + _SPARE_ELEMENTS:
        raise UserError(
            f"config.json in the {opened.source.place} describes a network of {claimed} numbers, but the weights hold"
            f" {held}: they do not belong together. Give weights and config.json as save_pretrained() wrote them"
            " together."
        )


def _from_tensors(
    request: ModelRequest, opened: OpenedFolder, tensors: StateDict
) -> tuple[PreTrainedModel, LoadingReport]:
    """Load the model with `from_pretrained` and convert its loading info to a report."""
    builder: Any = _class_of(opened)
    try:
        with quiet(), seeded(request.seed, "network"):
            network, info = builder.from_pretrained(
                None,
                config=opened.config,
                state_dict=tensors,
                dtype=torch.float32,
                # Shape mismatches are checked below, with all other faults.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except CONFIG_ERRORS as error:
        raise_if_of_the_machine(error)
        raise UserError(f"The weights in the {opened.source.place} cannot be loaded: {first_line(error)}.") from error
    faults = dict.fromkeys(info["missing_keys"], MISSING)
    faults |= {name: other_shape(given, expected) for name, given, expected in info["mismatched_keys"]}
    unused = tuple(sorted(info["unexpected_keys"]))
    groups = layer_groups(network, opened.family.anatomy)
    root = opened.family.anatomy.classifier.partition(".")[0]
    foreign = [name for name in unused if name.startswith(f"{root}.") or _is_trained_part(name, opened.family)]
    report = LoadingReport(
        expected=tuple(network.state_dict()),
        faults=faults,
        foreign=dict.fromkeys(foreign, "has no place"),
        unused=unused,
        head=(*groups[-1].parameters, f"{root}."),
    )
    return network, report


def _is_trained_part(name: str, family: TransformersFamily) -> bool:
    """Return whether an unexpected tensor is a trained one of the layers before the head."""
    anatomy = family.anatomy
    containers = [part.container for part in anatomy.body if isinstance(part, Children)]
    paths = [*containers, *f"{anatomy.stem} {anatomy.with_first} {anatomy.with_last}".replace("?", "").split()]
    parts = {".".join(path.split(".")[:2]) for path in paths}
    own = (*(f"{part}." for part in parts), *(f"{part.partition('.')[2]}." for part in parts))
    return name.startswith(own) and name.rpartition(".")[2] in _TRAINED and not is_harmless(name)


def _misfit(opened: OpenedFolder, report: LoadingReport) -> UserError:
    return UserError(
        f"The weights in the {opened.source.place} belong to another network than its config.json describes:"
        f" {len(report.loaded)} of {len(report.expected)} tensors match; {shortened(report.body_faults)}. Give weights"
        " and config.json as save_pretrained() wrote them together."
    )


def _set_classifier(
    network: Any,  # noqa: ANN401 - transformers types its attributes as tensors or modules
    family: TransformersFamily,
    rows: tuple[int, ...] | None,
    classes: int,
) -> None:
    """Keep `rows` of the last layer, in their order, or replace the layer by one for `classes`."""
    path = family.anatomy.classifier
    last = linear_at(network, path)
    if rows is None:
        # `_draw_head` initializes its values with all other new parameters of the head.
        new = nn.Linear(last.in_features, classes, bias=last.bias is not None, device="meta")
        network.set_submodule(path, new.to_empty(device="cpu"))
    else:
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.copy_(parameter[list(rows)].clone())
    network.num_labels = classes


def _draw_head(network: nn.Module, family: TransformersFamily, fresh: Sequence[str], seed: int) -> None:
    """Initialize the new parameters of the head, each as a function of seed and name only."""
    deviation = float(getattr(network.config, "initializer_range", 0.02))
    for name in set(fresh).intersection(layer_groups(network, family.anatomy)[-1].parameters):
        parameter = network.get_parameter(name)
        with seeded(seed, name), torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, deviation)
