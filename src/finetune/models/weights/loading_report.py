"""Reports how the tensors of a checkpoint match a model, with the same rules for torchvision and transformers.

All tensors except the head's are required, each with the model's shape and number type. A head is kept only if it is
complete. Unexpected tensors are ignored if they cannot change the outputs (`is_harmless`) or belong to the head of
another task; any other one means that the weights belong to another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import UserError

MISSING = "is missing"
_MAX_SHOWN = 4
# Counters, masks and index buffers, and tensors added by profilers and averaged models.
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
    """Match between a checkpoint and a model, by the model's tensor names.

    Attributes:
        expected: all parameters and persistent buffers of the model.
        faults: tensors that are missing or cannot be loaded, with the reason, such as `is missing`.
        foreign: unexpected tensors that indicate another model, with the reason.
        unused: all unexpected tensors.
        head: names of the head's tensors, or name prefixes ending in a dot.
        optional: the same for parts that do not affect the predictions, such as auxiliary classifiers.
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
        """Reasons why the weights do not match the model; empty if they do."""
        non_body = (*self.head, *self.optional)
        faults = {
            name: reason
            for name, reason in self.faults.items()
            if not _matches_any(name, non_body) and not is_harmless(name)
        }
        foreign = {name: reason for name, reason in self.foreign.items() if not _matches_any(name, non_body)}
        return format_faults(faults) + format_faults(foreign)

    @property
    def head_faults(self) -> list[str]:
        """Reasons why the head cannot be kept; empty if it is complete."""
        all_faults = {**self.faults, **self.foreign}
        return format_faults({name: reason for name, reason in all_faults.items() if _matches_any(name, self.head)})

    def has_prefix(self, prefix: str) -> bool:
        """Return whether the checkpoint has a tensor with that name prefix."""
        return any(name.startswith(prefix) for name in (*self.unused, *self.loaded)) or any(
            name.startswith(prefix) and reason != MISSING for name, reason in self.faults.items()
        )

    def initialized_outside_head(self, classifiers: Sequence[str]) -> tuple[str, ...]:
        """Return the names of newly initialized tensors outside the modules at the paths `classifiers`."""
        prefixes = tuple(f"{path}." for path in classifiers)
        return tuple(name for name in sorted(self.faults) if not name.startswith(prefixes) and not is_harmless(name))


def is_harmless(name: str) -> bool:
    """Return whether the presence of a tensor of that name has no effect on the outputs of a classifier."""
    return name.rpartition(".")[2] in _HARMLESS or name.endswith((".attn.bias", "crossattention.bias"))


def _matches_any(name: str, paths: Sequence[str]) -> bool:
    return any(name == path or (path.endswith(".") and name.startswith(path)) for path in paths)


def format_faults(reasons: Mapping[str, str]) -> list[str]:
    """Return the reasons as `name reason`, sorted by name."""
    return [f"{name} {reason}" for name, reason in sorted(reasons.items())]


def summarize_faults(faults: Sequence[str], shown: int = _MAX_SHOWN) -> str:
    """Join the first few reasons and the number of the others."""
    rest = len(faults) - shown
    return "; ".join(faults[:shown]) + (f"; and {rest} more" if rest > 0 else "")


def tensor_fault(tensor: Tensor, expected: Tensor) -> str | None:
    """Return the reason why a tensor cannot be loaded into the model's `expected` tensor, or None if it can."""
    if tensor.shape != expected.shape:
        return shape_fault(tensor.shape, expected.shape)
    return dtype_fault(tensor, floating=expected.is_floating_point())


def shape_fault(shape: Iterable[int], expected: Iterable[int]) -> str:
    """Return the reason for a shape mismatch."""
    return f"has shape {list(shape)} instead of {list(expected)}"


def dtype_fault(tensor: Tensor, *, floating: bool) -> str | None:
    """Return the reason why the values of a tensor cannot be copied unchanged, or None if they can."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return "has no dense values"
    quantized = tensor.is_quantized or tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() < 2)
    if quantized or tensor.is_floating_point() != floating:
        dtype = str(tensor.dtype).removeprefix("torch.")
        return f"has type {dtype}{', such as quantized weights' if floating else ''}"
    return None


def check_finite(tensors: Mapping[str, Tensor], description: str) -> None:
    """Refuse weights with NaN or infinite values, which would make every output NaN.

    Raises:
        UserError: names the tensors.
    """
    non_finite = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if non_finite:
        raise UserError(
            f"The weights from the {description} contain values that are not finite (NaN or infinite), in"
            f" {len(non_finite)} of {len(tensors)} tensors: {', '.join(sorted(non_finite)[:_MAX_SHOWN])}. The training"
            " that wrote them diverged, or the file is damaged: provide an earlier checkpoint."
        )
