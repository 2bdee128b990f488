"""How does a network run only up to a border between two layer groups, or only from there on?

Both halves are the framework's own network, run by its own code: copies of the containers around the border hold the
very same layers, except for stand-ins. In the front, the first layer behind the border stops the pass and hands out
what it was given. In the back, the layers before the border give at once what they gave for an example, so that the
code between them finds the shapes that it expects, and the first layer behind it gets the stored activation instead.
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
"""Runs a network that it is given on inputs that it knows."""


class _BorderReached(Exception):  # noqa: N818 - it is no error
    def __init__(self, activation: Tensor) -> None:
        self.activation = activation


class _Stop(nn.Module):
    """Ends the pass with what it is given."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the layer is called with
        raise _BorderReached(_first(args, kwargs))


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever the layer is called with
    return args[0] if args else next(iter(kwargs.values()))


class _Stored:
    """What the layers of one pass through the back share."""

    activation: Tensor = torch.empty(0)


class _InPlaceOf(nn.Module):
    """Stands where a layer was, and has the attributes that the code around it looks at."""

    def __init__(self, layer: nn.Module, stored: _Stored) -> None:
        super().__init__()
        # As a child it would appear among the modules of the other half.
        self._around = (layer,)
        self._stored = stored

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the layer has
        return getattr(self.__dict__["_around"][0], name)


class _StandIn(_InPlaceOf):
    """Gives what a layer before the border gave for the example.

    Where texts vary in length, tensors `[1, length, width]` of the example stand for `[batch, length, width]`; one as
    wide as the activation is the activation, because what enters the first layer may be used again behind it.
    """

    def __init__(self, layer: nn.Module, stored: _Stored, example: Any, length: int | None) -> None:  # noqa: ANN401 - whatever a layer gives
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
    """The first layer behind the border, which gets the stored activation."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the layer is called with
        (layer,) = self._around
        if args:
            return layer(self._stored.activation, *args[1:], **kwargs)
        return layer(**{**kwargs, next(iter(kwargs)): self._stored.activation})


class SplitNetwork:
    """A network in two halves that share its layers.

    What the halves compute follows the layers' own modes; the containers around the border are in evaluation mode,
    which leaves auxiliary classifiers out.
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[LayerGroup], border: int, example: Call, length: int | None = None
    ) -> None:
        """Cut in front of `groups[border]`.

        Args:
            network: stays as it is.
            groups: its partition, in the order in which data passes it.
            border: number of groups of the front, from 1 to `len(groups) - 1`.
            example: runs a network on one record, which is not a blank one.
            length: of that record in tokens, where records vary in length.
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
        """What crosses the border for the example."""
        return self._example.result

    def front(self, call: Call) -> Tensor:
        """What the first layer behind the border is given; no gradients."""
        return _until_border(self._front, call)

    def folded(self, dtype: torch.dtype | None) -> SplitNetwork:
        """The same halves, without normalisations in the front that can become part of convolutions.

        Args:
            dtype: see `folding.folded`.
        """
        copied = copy(self)
        with _in_evaluation(self._front):
            copied._front = folded(self._front, self._example, with_replaced, dtype)
        return copied

    def back(self, call: Call, activation: Tensor) -> Any:  # noqa: ANN401 - whatever the network gives
        """What the network gives where `activation` reaches the border; the call's own inputs matter no more."""
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
    """What happened while a network ran on an example.

    Attributes:
        entrance: the first layer behind the border that was called.
        activation: what it was given.
        given: what each layer before it gave, by its identity.
        pairs: convolutions before it and their normalisations.
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
            # A copy, which the layer cannot change.
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


def _detached(value: Any) -> Any:  # noqa: ANN401 - whatever a layer gives
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return type(value)(_detached(one) for one in value) if isinstance(value, tuple | list) else value


def _per_token(value: object, length: int | None) -> bool:
    return isinstance(value, Tensor) and length is not None and value.dim() == 3 and value.shape[1] == length


def _tells_of_tokens(value: Any, length: int) -> bool:  # noqa: ANN401 - whatever a layer gives
    """Whether a layer's output belongs to the tokens; what all layers share, such as distances, does not."""
    parts = value if isinstance(value, tuple | list) else (value,)
    return any(_per_token(part, length) for part in parts)


def with_replaced(network: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    """The same network with other modules at some paths; only the containers on the way there are copied."""
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
    """A copy that shares parameters, buffers and children, in evaluation mode on its own."""
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
