"""Measures the memory of the activations that a forward pass stores for the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class ActivationBytes(NamedTuple):
    """Bytes of stored activations.

    Attributes:
        stored: In a plain forward pass.
        checkpointed: With activation checkpointing, at the peak of the backward pass.
    """

    stored: float
    checkpointed: float

    def at(self, records: int, measured: int, other: ActivationBytes, other_records: int) -> ActivationBytes:
        """Extrapolate to another number of records from two measurements, linearly.

        Args:
            records: Number of records.
            measured: Number of records of this measurement.
            other: Another measurement.
            other_records: Its number of records.
        """
        share = (records - measured) / (other_records - measured)
        stored, checkpointed = (a + share * (b - a) for a, b in zip(self, other, strict=True))
        return ActivationBytes(stored, checkpointed)


def measure_activations(module: nn.Module, roots: Iterable[nn.Module], run: Callable[[], object]) -> ActivationBytes:
    """Run a forward pass with gradients and count the tensors that it stores.

    Args:
        module: The model, whose parameters are not counted; its buffers and random numbers are restored afterwards.
        roots: Modules whose activations would be checkpointed.
        run: Runs the forward pass.
    """
    checkpointed = [root for root in roots if next(root.children(), None) is not None]
    stored = _StoredTensors(module.parameters())
    inside: Counter[nn.Module] = Counter()
    inputs: Counter[nn.Module] = Counter()

    def enter(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inside[called] -= stored.bytes
        inputs[called] += sum(_bytes(tensor) for tensor in _tensors([*args, *kwargs.values()]))

    def leave(called: nn.Module, _args: object, _kwargs: object, _output: object) -> None:
        inside[called] += stored.bytes

    handles = [root.register_forward_pre_hook(enter, with_kwargs=True) for root in checkpointed]
    handles += [root.register_forward_hook(leave, with_kwargs=True) for root in checkpointed]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = [device for device in {buffer.device for buffer in module.parameters()} if device.type == "cuda"]
    try:
        with (
            torch.random.fork_rng(devices),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(stored.add, lambda tensor: tensor),
        ):
            # As long as the result refers to them, the addresses of stored tensors are not used again.
            result = run()
        del result
    finally:
        for handle in handles:
            handle.remove()
        for buffer, value in buffers:
            buffer.copy_(value)
    others = stored.bytes - sum(inside.values())
    return ActivationBytes(stored.bytes, others + sum(inputs.values()) + max(inside.values(), default=0))


class _StoredTensors:
    """Counts the memory of tensors, once for each that is stored several times."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.bytes = 0
        self._known = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def add(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in self._known:
            self._known.add(address)
            self.bytes += _bytes(tensor)
        return tensor


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _tensors(values: Sequence[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
