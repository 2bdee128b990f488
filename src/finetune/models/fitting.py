"""Does a state dict belong to a network? Everything but the head must fit, or nothing is loaded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from finetune.errors import UserError
from finetune.models.anatomy import Anatomy
from finetune.models.state_dicts import StateDict
from finetune.models.vision_families import FAMILIES, family_of, vision_names

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Fit:
    """What loading covered: names in the network that were loaded, that were not, and names of the source left over."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a state dict and a network differ outside the classifiers.

    Attributes:
        matched: names with equal shapes.
        missing: names that only the network has.
        misshapen: names with different shapes.
        foreign: names that only the source has.
        tolerated: missing names without which the network is still the same: whole auxiliary heads, counters.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    foreign: tuple[str, ...]
    tolerated: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the weights are those of the network."""
        return bool(self.matched) and not (self.missing or self.misshapen or self.foreign)


def compare(network: nn.Module, anatomy: Anatomy, state: StateDict) -> Comparison:
    """Compare names and shapes of everything but the classifiers."""
    expected = network.state_dict()
    extras = tuple(f"{extra.root}." for extra in anatomy.auxiliary)
    whole = tuple(root for root in extras if any(name.startswith(root) for name in state))
    heads = tuple(f"{path}." for path in anatomy.classifiers(network))
    body = [name for name in expected if not name.startswith(heads)]
    absent = [name for name in body if name not in state]
    tolerated = [
        name
        for name in absent
        if name.endswith("num_batches_tracked") or (name.startswith(extras) and not name.startswith(whole))
    ]
    return Comparison(
        matched=tuple(name for name in body if name in state and state[name].shape == expected[name].shape),
        missing=tuple(name for name in absent if name not in tolerated),
        misshapen=tuple(name for name in body if name in state and state[name].shape != expected[name].shape),
        foreign=tuple(
            sorted(name for name in state if name not in expected and not name.startswith((*heads, *extras)))
        ),
        tolerated=tuple(tolerated),
    )


def load_fitting(network: nn.Module, anatomy: Anatomy, state: StateDict, rows: tuple[int, ...] | None) -> Fit:
    """Load everything that fits; `rows` of the source's classifiers, or none of them.

    Args:
        network: changed in place; its classifiers are already the ones that stay where `rows` is None.
        anatomy: of the network.
        state: weights that fit, see `compare`.
        rows: which rows of the source's classifiers become ours, in this order.
    """
    chosen: dict[str, Tensor] = {name: state[name] for name in compare(network, anatomy, state).matched}
    if rows is not None:
        expected = network.state_dict()
        for path in anatomy.classifiers(network):
            for name in (f"{path}.weight", f"{path}.bias"):
                if name in state and name in expected and state[name].shape == expected[name].shape:
                    chosen[name] = state[name][list(rows)]
    network.load_state_dict(chosen, strict=False)
    return Fit(
        loaded=tuple(chosen),
        fresh=tuple(name for name in network.state_dict() if name not in chosen),
        unused=tuple(name for name in state if name not in chosen),
    )


def misfit(name: str, words: str, state: StateDict, found: Comparison) -> UserError:
    """The error for weights of another network, with the network that they fit where one is known."""
    total = len(found.matched) + len(found.missing) + len(found.misshapen) + len(found.tolerated)
    first = [f"{key} has another shape" for key in found.misshapen[:_SHOWN]]
    first += [f"{key} is missing" for key in found.missing[:_SHOWN]]
    first += [f"{key} is unknown" for key in found.foreign[:_SHOWN]]
    candidates = recognise(state)
    advice = (
        f"They fit {' or '.join(repr(candidate) for candidate in candidates[:3])}: set model_name accordingly."
        if candidates
        else f"Give the weights of a {name}, or the model_name that they belong to."
    )
    return UserError(
        f"The weights from the {words} belong to another network than model_name={name!r}: {len(found.matched)} of"
        f" {total} tensors match; {'; '.join(first[: 2 * _SHOWN])}. {advice}"
    )


def recognise(state: StateDict, names: Collection[str] | None = None) -> list[str]:
    """Names of the torchvision classifiers whose weights these are, by names and shapes of the tensors.

    RegNets are left out: torchvision cannot build them without allocating them.
    """
    found = []
    for name in vision_names() if names is None else names:
        family = family_of(name)
        if family == "regnet" or not _may_fit(family, state):
            continue
        extra = {"init_weights": False} if family in {"inception", "googlenet"} else {}
        with torch.device("meta"):
            network: nn.Module = get_model(name, weights=None, **extra)
        if compare(network, FAMILIES[family], state).fits:
            found.append(name)
    return found


def _may_fit(family: str, state: StateDict) -> bool:
    """Whether the classifier is where the family has it, so that most networks need not be built to be ruled out."""
    return f"{FAMILIES[family].classifier}.weight" in state
