"""Splits a module at a layer-group boundary into a frozen prefix and a trainable suffix.

Both parts run the framework's own code: copies of the containers around the split hold the same layers, except for
stand-ins. In the prefix, the first layer after the split stops the forward pass and returns its input. In the suffix,
the layers before the split return their outputs for an example at once, so that the code between them sees the expected
shapes, and the first layer after the split receives the stored activation instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.backbone import LayerGroup
from finetune.models.splitting.batchnorm_folding import Calls, Example, Pair, folded

Call = Callable[[nn.Module], Any]
"""Runs a given module on fixed inputs."""


class _BorderReached(Exception):  # noqa: N818 - control flow, not an error
    def __init__(self, activation: Tensor) -> None:
        self.activation = activation


class _Stop(nn.Module):
    """Stops the forward pass and returns its input through an exception."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - depends on the layer
        raise _BorderReached(_first(args, kwargs))


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - depends on the layer
    return args[0] if args else next(iter(kwargs.values()))


class _Stored:
    """Activation shared by the layers of the suffix during one forward pass."""

    activation: Tensor = torch.empty(0)


class _InPlaceOf(nn.Module):
    """Replaces a layer and forwards attribute access to it, for code that reads them."""

    def __init__(self, layer: nn.Module, stored: _Stored) -> None:
        super().__init__()
        # In a tuple: as a child module, the layer would be listed among the modules of the other part.
        self._around = (layer,)
        self._stored = stored

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - depends on the layer
        return getattr(self.__dict__["_around"][0], name)


class _StandIn(_InPlaceOf):
    """Returns the output of a layer before the split for the example.

    For texts of varying length, the example's tensors `[1, length, width]` are expanded to `[batch, length, width]`; a
    tensor of the activation's width is replaced by the activation, because later code may reuse the input of the first
    layer.
    """

    def __init__(self, layer: nn.Module, stored: _Stored, example: Any, length: int | None) -> None:  # noqa: ANN401 - depends on the layer
        super().__init__(layer, stored)
        self._example, self._length = example, length

    def forward(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        return self._filled(self._example)

    def _filled(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, tuple | list):
            return type(value)(self._filled(one) for one in value)
        if not _per_token(value, self._length):
            return value
        activation = self._stored.activation
        if activation.shape[-1] == value.shape[-1]:
            return activation
        return activation.new_zeros(()).expand(*activation.shape[:2], value.shape[-1])


class _Entrance(_InPlaceOf):
    """Runs the first layer after the split on the stored activation."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - depends on the layer
        (layer,) = self._around
        if args:
            return layer(self._stored.activation, *args[1:], **kwargs)
        return layer(**{**kwargs, next(iter(kwargs)): self._stored.activation})


class SplitNetwork:
    """A model as frozen prefix and trainable suffix, which share its layers.

    The layers keep their own train or eval mode; the containers around the split are in evaluation mode, which disables
    auxiliary classifiers.
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[LayerGroup], border: int, example: Call, length: int | None = None
    ) -> None:
        """Split before `groups[border]`.

        Args:
            network: model; it is not modified.
            groups: partition of its layers, in execution order.
            border: split index, the number of groups in the prefix, from 1 to `len(groups) - 1`.
            example: runs a module on one record with non-constant values.
            length: number of tokens of that record, if records vary in length.

        Raises:
            ValueError: `border` is out of range.
        """
        if not 0 < border < len(groups):
            raise ValueError(f"a network of {len(groups)} groups has no border {border}")
        paths = {id(module): path for path, module in network.named_modules()}
        before = [module for group in groups[:border] for module in group.modules]
        behind = [module for group in groups[border:] for module in group.modules]
        with _in_evaluation(network):
            seen = _watch(network, before, behind, example)
        entrance, given = seen.entrance, seen.given
        self._stored = _Stored()
        self._front = with_replaced(network, {paths[id(entrance)]: _Stop()})
        self._example = Example(seen.pairs, seen.activation, lambda front: _until_border(front, example))
        replaced: dict[str, nn.Module] = {
            paths[id(module)]: _StandIn(module, self._stored, given[id(module)], length)
            for module in before
            if id(module) in given and (length is None or _tells_of_tokens(given[id(module)], length))
        }
        self._back = with_replaced(network, {**replaced, paths[id(entrance)]: _Entrance(entrance, self._stored)})

    @property
    def activation(self) -> Tensor:
        """Activation at the split for the example."""
        return self._example.result

    def prefix(self, call: Call) -> Tensor:
        """Run the prefix and return the input of the first layer after the split, without gradients."""
        return _until_border(self._front, call)

    def folded(self, dtype: torch.dtype | None) -> SplitNetwork:
        """Return a copy whose prefix has its batch normalizations folded into convolutions where possible.

        Args:
            dtype: see `batchnorm_folding.folded`.
        """
        copied = copy(self)
        with _in_evaluation(self._front):
            copied._front = folded(self._front, self._example, with_replaced, dtype)
        return copied

    def suffix(self, call: Call, activation: Tensor) -> Any:  # noqa: ANN401 - depends on the model
        """Run the suffix on `activation` and return the model's output; the inputs of `call` have no effect."""
        self._stored.activation = activation
        try:
            return call(self._back)
        finally:
            self._stored.activation = torch.empty(0)


def _until_border(network: nn.Module, call: Call) -> Tensor:
    with torch.no_grad():
        try:
            call(network)
        except _BorderReached as reached:
            return reached.activation
    raise RuntimeError("the border was not reached")


@dataclass(frozen=True, slots=True)
class _Seen:
    """Recorded run of a model on an example.

    Attributes:
        entrance: first layer after the split that was called.
        activation: its input.
        given: output of each layer before the split, by `id` of the layer, with tensors zeroed.
        pairs: convolutions before the split with their batch normalizations.
    """

    entrance: nn.Module
    activation: Tensor
    given: dict[int, Any]
    pairs: Sequence[Pair]


def _watch(network: nn.Module, before: Sequence[nn.Module], behind: Sequence[nn.Module], example: Call) -> _Seen:
    entered: list[tuple[nn.Module, Tensor]] = []
    given: dict[int, Any] = {}
    calls = Calls(network)

    def keep(module: nn.Module, _args: object, output: object) -> None:
        given[id(module)] = _detached(output)

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not entered:
            calls.end()
            # Cloned, since the layer may modify its input in place.
            entered.append((module, _first(args, kwargs).clone()))

    handles = [module.register_forward_hook(keep) for module in before]
    handles += [module.register_forward_pre_hook(enter, with_kwargs=True) for module in behind]
    try:
        with torch.no_grad(), calls:
            example(network)
    finally:
        for handle in handles:
            handle.remove()
    return _Seen(*entered[0], given, calls.pairs())


def _detached(value: Any) -> Any:  # noqa: ANN401 - depends on the layer
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return type(value)(_detached(one) for one in value) if isinstance(value, tuple | list) else value


def _per_token(value: object, length: int | None) -> bool:
    return isinstance(value, Tensor) and length is not None and value.dim() == 3 and value.shape[1] == length


def _tells_of_tokens(value: Any, length: int) -> bool:  # noqa: ANN401 - depends on the layer
    """Return whether a layer's output is per token; outputs shared by all layers, such as distances, are not."""
    parts = value if isinstance(value, tuple | list) else (value,)
    return any(_per_token(part, length) for part in parts)


def with_replaced(network: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    """Return the model with the submodules at some paths replaced; only the containers along the paths are copied."""
    copied = _shallow(network)
    for path, replacement in replacements.items():
        *ways, last = path.split(".")
        parent, original = copied, network
        for name in ways:
            original = original.get_submodule(name)
            if parent._modules[name] is original:
                parent._modules[name] = _shallow(original)
            parent = parent.get_submodule(name)
        parent._modules[last] = replacement
    return copied


def _shallow(module: nn.Module) -> nn.Module:
    """Return a copy that shares parameters, buffers and children; only the copy itself is in evaluation mode."""
    copied = module.__new__(type(module))
    copied.__dict__ = module.__dict__.copy()
    copied._modules = module._modules.copy()
    copied.training = False
    return copied


@contextmanager
def _in_evaluation(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
