"""Activation checkpointing: activations of layers are computed again in the backward pass instead of being stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(
    modules: Iterable[nn.Module], context: Callable[[], AbstractContextManager[object]] = nullcontext
) -> None:
    """Store only the inputs of modules in forward passes with gradients, in place; results keep their bits.

    Random numbers and autocast are those of the first computation, and the running statistics of batch normalization
    are not updated a second time. Modules without submodules are left unchanged, since storing their inputs saves
    nothing. Sharding may be applied before or after.

    Args:
        modules: Roots of disjoint subtrees, such as the modules of all layer groups.
        context: Returns the context of forward passes, other than autocast, which the second computation needs too.
    """
    for module in modules:
        if next(module.children(), None) is not None:
            # An attribute of the instance rather than a wrapping module, which would change the names of parameters.
            module.forward = partial(_run, module, module.forward, context)


def _run(
    module: nn.Module,
    forward: Callable[..., Any],
    context: Callable[[], AbstractContextManager[object]],
    *args: Any,  # noqa: ANN401 - depends on the module
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = lambda: (nullcontext(), _recomputation(module, context))  # noqa: E731 - a callback
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _recomputation(module: nn.Module, context: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Restore the buffers of batch normalization layers after the second computation."""
    buffers = [buffer for layer in module.modules() if _is_batch_norm(layer) for buffer in layer.buffers(recurse=False)]
    before: list[Tensor] = [buffer.clone() for buffer in buffers]
    try:
        with context():
            yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _is_batch_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
