"""Splits a module at a layer-group boundary into a frozen prefix and a trainable suffix.

Both parts run the framework's own code: copies of the containers around the split hold the same layers, except for
proxies. In the prefix, the first layer after the split stops the forward pass and returns its input. In the suffix,
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
from finetune.models.splitting.batchnorm_folding import CallRecorder, ConvNormPair, ReferenceRun, fold_batchnorms
from finetune.models.structure import EXAMPLE_RECORDS

ForwardCall = Callable[[nn.Module], Any]
"""Runs a given module on fixed inputs."""


class _SplitReached(Exception):  # noqa: N818 - control flow, not an error
    def __init__(self, activation: Tensor) -> None:
        self.activation = activation


def _first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - depends on the layer
    return args[0] if args else next(iter(kwargs.values()))


class _StoredActivation:
    """Activation shared by the layers of the suffix during one forward pass, and whether the first layer has read it.

    A layer that is called several times, whose weights are shared, reads it only in its first call.
    """

    activation: Tensor = torch.empty(0)
    is_read: bool = False


class _LayerProxy(nn.Module):
    """Replaces a layer and forwards attribute access to it, for code that reads its attributes."""

    def __init__(self, layer: nn.Module, stored: _StoredActivation) -> None:
        super().__init__()
        # In a tuple: as a child module, the layer would be listed among the modules of the other part.
        self._wrapped = (layer,)
        self._stored = stored

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - depends on the layer
        return getattr(self.__dict__["_wrapped"][0], name)


class _StopForward(_LayerProxy):
    """Stops the forward pass at a layer and returns its input through an exception."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - depends on the layer
        raise _SplitReached(_first_argument(args, kwargs))


class _PrefixLayerProxy(_LayerProxy):
    """Returns the output of a layer before the split for the example.

    For texts of varying length, the example's tensors `[1, length, width]` are expanded to `[batch, length, width]`; a
    tensor of the activation's width is replaced by the activation, because later code may reuse the input of the first
    layer. If the activation is a vector per text, texts have the length of the example.
    """

    def __init__(self, layer: nn.Module, stored: _StoredActivation, example: Any, length: int | None) -> None:  # noqa: ANN401 - depends on the layer
        super().__init__(layer, stored)
        self._reference, self._length = example, length

    def forward(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        return self._fill(self._reference)

    def _fill(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Mapping):
            return type(value)(**{name: self._fill(item) for name, item in value.items()})
        if isinstance(value, tuple | list):
            return type(value)(self._fill(item) for item in value)
        if not _is_per_token(value, self._length):
            return value
        activation = self._stored.activation
        if activation.dim() != value.dim():
            return activation.new_zeros(()).expand(len(activation), *value.shape[1:])
        if activation.shape[-1] == value.shape[-1]:
            return activation
        return activation.new_zeros(()).expand(*activation.shape[:2], value.shape[-1])


class _FirstSuffixLayer(_LayerProxy):
    """Runs the first layer after the split on the stored activation."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - depends on the layer
        (layer,) = self._wrapped
        if self._stored.is_read:
            return layer(*args, **kwargs)
        self._stored.is_read = True
        if args:
            return layer(self._stored.activation, *args[1:], **kwargs)
        return layer(**{**kwargs, next(iter(kwargs)): self._stored.activation})


class SplitModule:
    """A model as frozen prefix and trainable suffix, which share its layers.

    Layers keep their own train or eval mode; the containers around the split are in evaluation mode, which disables
    auxiliary classifiers.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        split_index: int,
        example: ForwardCall,
        length: int | None = None,
    ) -> None:
        """Split before `groups[split_index]`.

        Args:
            model: model; it is not modified.
            groups: partition of its layers, in execution order.
            split_index: split index, the number of groups in the prefix, from 1 to `len(groups) - 1`.
            example: runs a module on `EXAMPLE_RECORDS` records with non-constant values.
            length: number of tokens of those records, if records vary in length.

        Raises:
            ValueError: `split_index` is out of range.
        """
        if not 0 < split_index < len(groups):
            raise ValueError(f"split_index={split_index} must be from 1 to {len(groups) - 1}")
        paths = {id(module): path for path, module in model.named_modules()}
        prefix_modules = [module for group in groups[:split_index] for module in group.modules]
        suffix_modules = [module for group in groups[split_index:] for module in group.modules]
        with evaluation_mode(model):
            record = _record_forward(model, prefix_modules, suffix_modules, example)
        first_layer, outputs = record.first_layer, record.outputs
        self._stored = _StoredActivation()
        self._prefix = replace_submodules(model, {paths[id(first_layer)]: _StopForward(first_layer, self._stored)})
        self._reference = ReferenceRun(record.pairs, record.activation, lambda prefix: _run_prefix(prefix, example))
        proxies: dict[str, nn.Module] = {
            paths[id(module)]: _PrefixLayerProxy(module, self._stored, outputs[id(module)], length)
            for module in prefix_modules
            if id(module) in outputs and (length is None or _has_per_token_output(outputs[id(module)], length))
        }
        self._suffix = replace_submodules(
            model, {**proxies, paths[id(first_layer)]: _FirstSuffixLayer(first_layer, self._stored)}
        )

    @property
    def activation(self) -> Tensor:
        """Activation at the split for the example."""
        return self._reference.output

    def prefix(self, call: ForwardCall) -> Tensor:
        """Run the prefix and return the input of the first layer after the split, without gradients."""
        return _run_prefix(self._prefix, call)

    def fold_batchnorms(self, dtype: torch.dtype | None) -> SplitModule:
        """Return a copy whose prefix has its batch normalizations folded into convolutions where possible.

        Args:
            dtype: see `fold_batchnorms`.
        """
        folded = copy(self)
        with evaluation_mode(self._prefix):
            folded._prefix = fold_batchnorms(self._prefix, self._reference, replace_submodules, dtype)
        return folded

    def suffix(self, call: ForwardCall, activation: Tensor) -> Any:  # noqa: ANN401 - depends on the model
        """Run the suffix on `activation` and return the model's output; the inputs of `call` have no effect."""
        self._stored.activation, self._stored.is_read = activation, False
        try:
            return call(self._suffix)
        finally:
            self._stored.activation = torch.empty(0)


def _run_prefix(model: nn.Module, call: ForwardCall) -> Tensor:
    with torch.no_grad():
        try:
            call(model)
        except _SplitReached as reached:
            return reached.activation
    raise RuntimeError("the forward pass did not reach the split")


@dataclass(frozen=True, slots=True)
class _ForwardRecord:
    """Recorded run of a model on an example.

    Attributes:
        first_layer: first layer after the split that was called.
        activation: its input.
        outputs: output of each layer before the split that depends on the records, by `id` of the layer, for one
            record and with tensors zeroed. Other layers, such as position encodings, run in both parts.
        pairs: convolutions before the split with their batch normalizations.
    """

    first_layer: nn.Module
    activation: Tensor
    outputs: dict[int, Any]
    pairs: Sequence[ConvNormPair]


def _record_forward(
    model: nn.Module, prefix_modules: Sequence[nn.Module], suffix_modules: Sequence[nn.Module], example: ForwardCall
) -> _ForwardRecord:
    first_inputs: list[tuple[nn.Module, Tensor]] = []
    outputs: dict[int, Any] = {}
    calls = CallRecorder(model)

    def record_output(module: nn.Module, _args: object, output: object) -> None:
        if _depends_on_records(output):
            outputs[id(module)] = _zeros_for_one_record(output)

    def record_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not first_inputs:
            calls.end()
            # Cloned, since the layer may modify its input in place.
            first_inputs.append((module, _first_argument(args, kwargs).clone()))

    handles = [module.register_forward_hook(record_output) for module in prefix_modules]
    handles += [module.register_forward_pre_hook(record_input, with_kwargs=True) for module in suffix_modules]
    try:
        with torch.no_grad(), calls:
            example(model)
    finally:
        for handle in handles:
            handle.remove()
    return _ForwardRecord(*first_inputs[0], outputs, calls.pairs())


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 - depends on the layer
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _depends_on_records(output: Any) -> bool:  # noqa: ANN401 - depends on the layer
    """Return whether a layer's output has one row per record of the example."""
    return any(tensor.shape[:1] == (EXAMPLE_RECORDS,) for tensor in _tensors(output))


def _zeros_for_one_record(value: Any) -> Any:  # noqa: ANN401 - depends on the layer
    if isinstance(value, Tensor):
        return torch.zeros_like(value[:1] if value.shape[:1] == (EXAMPLE_RECORDS,) else value)
    if isinstance(value, Mapping):
        return type(value)(**{name: _zeros_for_one_record(item) for name, item in value.items()})
    return type(value)(_zeros_for_one_record(item) for item in value) if isinstance(value, tuple | list) else value


def _is_per_token(value: object, length: int | None) -> bool:
    return isinstance(value, Tensor) and length is not None and value.dim() == 3 and value.shape[:2] == (1, length)


def _has_per_token_output(value: Any, length: int) -> bool:  # noqa: ANN401 - depends on the layer
    """Return whether a layer's output is per token; outputs shared by all layers, such as distances, are not."""
    return any(_is_per_token(tensor, length) for tensor in _tensors(value))


def replace_submodules(model: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    """Return the model with the submodules at some paths replaced; only the containers along the paths are copied."""
    copied = _shallow_copy(model)
    for path, replacement in replacements.items():
        *parents, last = path.split(".")
        parent, original = copied, model
        for name in parents:
            original = original.get_submodule(name)
            if parent._modules[name] is original:
                parent._modules[name] = _shallow_copy(original)
            parent = parent.get_submodule(name)
        parent._modules[last] = replacement
    return copied


def _shallow_copy(module: nn.Module) -> nn.Module:
    """Return a copy that shares parameters, buffers and children; only the copy itself is in evaluation mode."""
    copied = module.__new__(type(module))
    copied.__dict__ = module.__dict__.copy()
    copied._modules = module._modules.copy()
    copied.training = False
    return copied


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode, and restore the modes of its modules on exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
