"""Judges how the tensors of a checkpoint cover a model: one rule for torchvision and transformers.

Everything but the head must be there, each tensor with the model's shape and type of number. A head is kept only
whole. Tensors without a place are ignored where they cannot change what the model computes (`is_harmless`), or belong
to the head of another task; any other one shows that the weights are another model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import UserError

MISSING = "is missing"
_SHOWN = 4
# Buffers that count, mask or number, and what profilers and averaged models leave among the tensors.
_HARMLESS = frozenset(
    {
        "num_batches_tracked",
        "n_averaged",
        "total_ops",
        "total_params",
        "position_ids",
        "token_type_ids",
        "relative_position_index",
        "attn_mask",
        "masked_bias",
        "mask_token",
        "inv_freq",
    }
)


@dataclass(frozen=True, slots=True)
class LoadingReport:
    """How a checkpoint covers a model, by the model's names.

    Attributes:
        expected: all parameters and persistent buffers of the model.
        faults: tensors that are missing or cannot be loaded, with the reason, such as `is missing`.
        foreign: tensors without a place that show another model, with the reason.
        unused: all tensors without a place.
        head: names of the head's tensors, or their beginnings ending in a dot.
        optional: the same, of parts without which the model gives the same answers, such as auxiliary classifiers.
    """

    expected: tuple[str, ...]
    faults: Mapping[str, str]
    foreign: Mapping[str, str]
    unused: tuple[str, ...]
    head: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the tensors that were, or can be, loaded."""
        return tuple(name for name in self.expected if name not in self.faults)

    @property
    def body_faults(self) -> list[str]:
        """Reasons why the weights are not the model's; empty where they are."""
        elsewhere = (*self.head, *self.optional)
        faults = {
            name: reason
            for name, reason in self.faults.items()
            if not _is_among(name, elsewhere) and not is_harmless(name)
        }
        foreign = {name: reason for name, reason in self.foreign.items() if not _is_among(name, elsewhere)}
        return sentences(faults) + sentences(foreign)

    @property
    def head_faults(self) -> list[str]:
        """Reasons why the head cannot be kept; empty where it is whole."""
        everything = {**self.faults, **self.foreign}
        return sentences({name: reason for name, reason in everything.items() if _is_among(name, self.head)})

    def has_any_of(self, beginning: str) -> bool:
        """Whether the checkpoint has any tensor whose name has that beginning."""
        return any(name.startswith(beginning) for name in (*self.unused, *self.loaded)) or any(
            name.startswith(beginning) and reason != MISSING for name, reason in self.faults.items()
        )

    def initialized(self, classifiers: Sequence[str]) -> tuple[str, ...]:
        """Names of the tensors outside `classifiers` (beginnings of names) that are newly initialized."""
        own = tuple(f"{path}." for path in classifiers)
        return tuple(name for name in sorted(self.faults) if not name.startswith(own) and not is_harmless(name))


def is_harmless(name: str) -> bool:
    """Whether a tensor of that name changes nothing that a classifier computes, there or not."""
    return name.rpartition(".")[2] in _HARMLESS or name.endswith((".attn.bias", "crossattention.bias"))


def _is_among(name: str, paths: Sequence[str]) -> bool:
    return any(name == path or (path.endswith(".") and name.startswith(path)) for path in paths)


def sentences(reasons: Mapping[str, str]) -> list[str]:
    """The reasons as `name reason`, sorted by name."""
    return [f"{name} {reason}" for name, reason in sorted(reasons.items())]


def shortened(faults: Sequence[str], shown: int = _SHOWN) -> str:
    """The first few reasons, and how many more there are."""
    rest = len(faults) - shown
    return "; ".join(faults[:shown]) + (f"; and {rest} more" if rest > 0 else "")


def fault_of(given: Tensor, expected: Tensor) -> str | None:
    """The reason why a tensor cannot be loaded into a place of the model, None where it can."""
    if given.shape != expected.shape:
        return other_shape(given.shape, expected.shape)
    return not_numbers(given, floating=expected.is_floating_point())


def other_shape(given: Iterable[int], expected: Iterable[int]) -> str:
    """The reason for a tensor of shape `given` where one of shape `expected` belongs."""
    return f"has another shape: {list(given)} instead of {list(expected)}"


def not_numbers(given: Tensor, *, floating: bool) -> str | None:
    """The reason why the values of a tensor cannot be taken over as they are; None where they can."""
    if given.is_meta or given.layout != torch.strided:
        return "holds no plain values"
    quantized = given.is_quantized or given.is_complex() or (given.is_floating_point() and given.element_size() < 2)
    if quantized or given.is_floating_point() != floating:
        kind = str(given.dtype).removeprefix("torch.")
        return f"holds numbers of type {kind}{', as quantized weights do' if floating else ''}"
    return None


def refuse_infinite(tensors: Mapping[str, Tensor], words: str) -> None:
    """Refuse weights with NaN or infinite values, from which every answer would be NaN.

    Raises:
        UserError: with the names of the tensors.
    """
    wrong = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if wrong:
        raise UserError(
            f"The weights from the {words} hold values that are not finite (NaN or infinite), in"
            f" {len(wrong)} of {len(tensors)} tensors: {', '.join(sorted(wrong)[:_SHOWN])}. The training that wrote"
            " them diverged, or the file is damaged: give an earlier checkpoint."
        )
