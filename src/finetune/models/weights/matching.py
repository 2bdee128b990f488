"""Compares a state dict with a torchvision classifier and loads the matching tensors."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from finetune.errors import UserError
from finetune.models.heads import get_linear
from finetune.models.layer_groups import ModelLayout
from finetune.models.torchvision.families import FAMILIES, family_of, torchvision_names
from finetune.models.weights.loading_report import MISSING, LoadingReport, is_harmless, summarize_faults, tensor_fault
from finetune.models.weights.state_dict import StateDict, strip_model_prefix

_MAX_SHOWN = 6


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Result of loading: names in the model that were loaded or not, and unused names of the source."""

    loaded: tuple[str, ...]
    newly_initialized: tuple[str, ...]
    unused: tuple[str, ...]


def compare_tensors(model: nn.Module, layout: ModelLayout, state: StateDict) -> LoadingReport:
    """Compare names, shapes and types, with the number of classes of the state dict.

    Args:
        model: model with any number of classes.
        layout: layer layout of the model.
        state: tensors without prefixes, see `strip_model_prefix`.
    """
    expected = model.state_dict()
    weight = state.get(f"{layout.classifier}.weight")
    if weight is not None and weight.dim() > 0:
        linear = get_linear(model, layout.classifier)
        expected[f"{layout.classifier}.weight"] = torch.empty(len(weight), linear.in_features, device="meta")
        expected[f"{layout.classifier}.bias"] = torch.empty(len(weight), device="meta")
    # An auxiliary classifier must be complete or absent; its last layer may be for other classes.
    absent_auxiliary = [
        f"{auxiliary_head.root}."
        for auxiliary_head in layout.auxiliary
        if not _has_prefix(state, f"{auxiliary_head.root}.")
    ]
    auxiliary_classifiers = [f"{path}." for path in layout.classifiers(model)[1:]]
    unbuilt = tuple(
        f"{auxiliary_head.root}."
        for auxiliary_head in layout.auxiliary
        if not _has_prefix(expected, f"{auxiliary_head.root}.")
    )
    faults = {name: _find_fault(state.get(name), tensor) for name, tensor in expected.items()}
    unused = tuple(sorted(name for name in state if name not in expected))
    foreign = [name for name in unused if not is_harmless(name) and not name.startswith(unbuilt)]
    return LoadingReport(
        expected=tuple(expected),
        faults={name: fault for name, fault in faults.items() if fault is not None},
        foreign=dict.fromkeys(foreign, "is unexpected"),
        unused=unused,
        head=(f"{layout.classifier}.",),
        optional=(*absent_auxiliary, *auxiliary_classifiers),
    )


def load_matching_tensors(
    model: nn.Module, layout: ModelLayout, state: StateDict, rows: tuple[int, ...] | None
) -> LoadResult:
    """Load all matching tensors, and of the source's classifiers the given rows, or none.

    Args:
        model: model, modified in place; its own classifiers are kept if `rows` is None.
        layout: layer layout of the model.
        state: matching weights, see `compare_tensors`.
        rows: rows of the source's classifiers to load, in this order.
    """
    expected = model.state_dict()
    classifiers = tuple(f"{path}." for path in layout.classifiers(model))
    matching: dict[str, Tensor] = {}
    for name in compare_tensors(model, layout, state).loaded:
        if not name.startswith(classifiers):
            matching[name] = state[name]
        elif rows is not None and state[name].shape == expected[name].shape:
            matching[name] = state[name][list(rows)]
    model.load_state_dict(matching, strict=False)
    return LoadResult(
        loaded=tuple(matching),
        newly_initialized=tuple(name for name in expected if name not in matching),
        unused=tuple(name for name in state if name not in matching),
    )


def mismatch_error(name: str, description: str, state: StateDict, report: LoadingReport) -> UserError:
    """Create the error for weights of another model, with the names of the models that they match, if any."""
    body = [key for key in report.expected if not key.startswith(report.head)]
    matched = [key for key in body if key not in report.faults]
    candidates = matching_models(state)
    advice = (
        f"They match {' or '.join(repr(candidate) for candidate in candidates[:3])}: set model_name accordingly."
        if candidates
        else f"Provide the weights of a {name}, or set model_name to the model of the weights."
    )
    return UserError(
        f"The weights from the {description} belong to another model than model_name={name!r}: {len(matched)} of"
        f" {len(body)} tensors match; {summarize_faults(report.body_faults, _MAX_SHOWN)}. {advice}"
    )


def matching_models(state: StateDict, names: Collection[str] | None = None) -> list[str]:
    """Return the names of the torchvision classifiers that match the names and shapes of the tensors.

    RegNets are excluded: torchvision cannot build them on the meta device.
    """
    matches = []
    for name in torchvision_names() if names is None else names:
        family = family_of(name)
        if family == "regnet" or not _has_classifier(family, state):
            continue
        model = _model_without_values(name)
        tensors, _ = strip_model_prefix(state, frozenset(model.state_dict()), "weights")
        if not compare_tensors(model, FAMILIES[family], tensors).body_faults:
            matches.append(name)
    return matches


@functools.cache
def _model_without_values(name: str) -> nn.Module:
    """A model on the meta device, never modified. Building one takes up to a second, also there."""
    arguments = {"init_weights": False} if family_of(name) in {"inception", "googlenet"} else {}
    with torch.device("meta"):
        model: nn.Module = get_model(name, weights=None, **arguments)
    return model


def _has_classifier(family: str, state: StateDict) -> bool:
    """Return whether the state dict has the family's classifier, which excludes most models without building them."""
    weight = f".{FAMILIES[family].classifier}.weight"
    return any(f".{name}".endswith(weight) for name in state)


def _find_fault(tensor: Tensor | None, expected: Tensor) -> str | None:
    return MISSING if tensor is None else tensor_fault(tensor, expected)


def _has_prefix(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
