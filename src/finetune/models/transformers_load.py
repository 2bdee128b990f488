"""How the weights and the head of a transformers network are loaded from a local folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune.errors import UserError
from finetune.models.anatomy import Children, layer_groups
from finetune.models.backbone import LoadedWeights
from finetune.models.heads import SourceHead, linear_at, rows_to_keep, seeded, set_head_dropout
from finetune.models.request import ModelRequest
from finetune.models.state_dicts import not_plain_tensors
from finetune.models.transformers_families import TransformersFamily
from finetune.models.transformers_folder import OpenedFolder, first_line, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = 4
_GENERIC_LABEL = re.compile(r"LABEL_\d+")


@dataclass(frozen=True, slots=True)
class _Report:
    """What transformers says of loading; `missing` grows by what is thrown away on purpose."""

    missing: set[str]
    misshapen: set[str]
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network with its head, and where its weights came from."""

    network: PreTrainedModel
    weights: LoadedWeights


def load_network(request: ModelRequest, opened: OpenedFolder) -> Loaded:
    """Build the network in a folder, with its weights or random ones, and give it its head.

    Args:
        request: what is asked for.
        opened: the folder; its configuration becomes that of the new classifier.

    Raises:
        UserError: the weights are missing or damaged, or belong to another network.
    """
    theirs = labels_of(opened)
    head = SourceHead(int(opened.config.num_labels), theirs, _multi_label(opened))
    _describe_classes(opened, request)
    family = opened.family
    if request.pretrained:
        network, report = _from_folder(request, opened)
        _refuse_misfit(network, opened, report)
        has_head = f"{family.anatomy.classifier}.weight" not in report.missing
        rows = rows_to_keep(head if has_head else None, request)
        _keep_rows(network, family, report, rows)
        weights = _account(network, opened, report, theirs, kept=rows is not None)
    else:
        network = _random(request, opened)
        weights = LoadedWeights("random", fresh=tuple(network.state_dict()))
    _draw_head(network, family, weights.fresh, request.seed)
    if request.spec.dropout is not None and family.dropout is None:
        set_head_dropout(network, family.anatomy.head.split(), family.anatomy.classifier, request.spec.dropout)
    return Loaded(network, weights)


def labels_of(opened: OpenedFolder) -> tuple[str, ...] | None:
    """Class names in the order of the outputs; None where the folder only numbers them."""
    if opened.source.labels is not None:
        return opened.source.labels
    names: Mapping[int, str] = opened.config.id2label
    labels = tuple(str(names[index]) for index in sorted(names))
    return None if all(_GENERIC_LABEL.fullmatch(label) for label in labels) else labels


def _multi_label(opened: OpenedFolder) -> bool | None:
    if opened.source.multi_label is not None or opened.config.problem_type is None:
        return opened.source.multi_label
    return bool(opened.config.problem_type == "multi_label_classification")


def _describe_classes(opened: OpenedFolder, request: ModelRequest) -> None:
    config = opened.config
    config.id2label = dict(enumerate(request.labels))
    config.label2id = {label: index for index, label in enumerate(request.labels)}
    config.problem_type = "multi_label_classification" if request.multi_label else "single_label_classification"
    config.dtype = torch.float32
    if request.spec.dropout is not None and opened.family.dropout is not None:
        setattr(config, opened.family.dropout, request.spec.dropout)


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
    except (ValueError, RuntimeError, TypeError, LookupError) as error:
        raise UserError(
            f"config.json in the {opened.source.place} describes no network: {first_line(error)}."
        ) from error


def _from_folder(request: ModelRequest, opened: OpenedFolder) -> tuple[PreTrainedModel, _Report]:
    from safetensors import SafetensorError

    builder: Any = _class_of(opened)
    try:
        with quiet(), seeded(request.seed, "network"):
            network, report = builder.from_pretrained(
                opened.folder,
                config=opened.config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except UnpicklingError as error:
        raise not_plain_tensors(f"The file of weights in the {opened.source.place}", error) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The weights in the {opened.source.place} cannot be loaded: {first_line(error)}.") from error
    misshapen = (entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"])
    return network, _Report(set(report["missing_keys"]), set(misshapen), tuple(sorted(report["unexpected_keys"])))


def _refuse_misfit(network: nn.Module, opened: OpenedFolder, report: _Report) -> None:
    """Refuse weights that do not cover everything but the head, or that have more layers than the configuration."""
    head = set(layer_groups(network, opened.family.anatomy)[-1].parameters)
    wrong = [f"{name} is missing" for name in sorted(report.missing - head)]
    wrong += [f"{name} has another shape" for name in sorted(report.misshapen - head)]
    wrong += [f"{name} has no place" for name in report.unexpected if _is_layer(name, opened.family)]
    if wrong:
        total = len(network.state_dict())
        raise UserError(
            f"The weights in the {opened.source.place} belong to another network than its config.json describes:"
            f" {total - len(report.missing | report.misshapen)} of {total} tensors match;"
            f" {'; '.join(wrong[:_SHOWN])}. Give weights and config.json as save_pretrained() wrote them together."
        )


def _is_layer(name: str, family: TransformersFamily) -> bool:
    """Whether a tensor belongs to the body; older files also hold masks there, which are no weights."""
    containers = [part.container.partition(".")[2] for part in family.anatomy.body if isinstance(part, Children)]
    return any(re.search(rf"(^|\.){re.escape(container)}\.\d+\..*weight$", name) for container in containers)


def _keep_rows(network: nn.Module, family: TransformersFamily, report: _Report, rows: tuple[int, ...] | None) -> None:
    path = family.anatomy.classifier
    last = linear_at(network, path)
    if rows is None:
        report.missing.update(f"{path}.{name}" for name, _ in last.named_parameters())
        return
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.copy_(parameter[list(rows)].clone())


def _account(
    network: nn.Module, opened: OpenedFolder, report: _Report, labels: tuple[str, ...] | None, *, kept: bool
) -> LoadedWeights:
    source = opened.source
    fresh = report.missing | report.misshapen
    names = tuple(network.state_dict())
    return LoadedWeights(
        source=source.words if source.path is not None else f"hub ({source.name})",
        loaded=tuple(name for name in names if name not in fresh),
        fresh=tuple(name for name in names if name in fresh),
        unused=report.unexpected,
        labels=labels,
        kept_head=kept,
    )


def _draw_head(network: nn.Module, family: TransformersFamily, fresh: Sequence[str], seed: int) -> None:
    """Draw what is fresh in the head anew, each tensor as a function of seed and name only."""
    deviation = float(getattr(network.config, "initializer_range", 0.02))
    for name in set(fresh).intersection(layer_groups(network, family.anatomy)[-1].parameters):
        parameter = network.get_parameter(name)
        with seeded(seed, name), torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, deviation)
