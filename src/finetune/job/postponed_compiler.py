"""How does a job do without torch's compiler until somebody compiles something?

`torch._dynamo`, with sympy and 850 modules in all, takes longer to import than torch itself: half of the time before
the first step. torchvision imports it for one function of detection networks, and every optimizer for a call that does
nothing outside a compiled function. So something stands in its place that knows these few, and becomes the real module
as soon as it is asked for anything else, such as by `torch.compile`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

_COMPILER, _UTILITIES = "torch._dynamo", "torch._dynamo.utils"


class _Postponed(ModuleType):
    """Stands for a module until it is asked for what it has not."""

    def __getattr__(self, name: str) -> object:
        """Import the real module and ask that; names with underscores, `inspect` and others ask every module for."""
        # Who asks the package for its path looks for a module in it.
        if name.startswith("__") and (self.__name__, name) != (_COMPILER, "__path__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def postpone_compiler() -> None:
    """Put something in the place of the compiler, unless it is imported already."""
    import torch

    if _COMPILER in sys.modules:
        return
    compiler, utilities = _Postponed(_COMPILER), _Postponed(_UTILITIES)
    compiler.__spec__ = importlib.util.find_spec(_COMPILER)
    vars(compiler).update(disable=_disable, graph_break=_graph_break)
    vars(utilities).update(is_compile_supported=_is_compile_supported)
    sys.modules.update({_COMPILER: compiler, _UTILITIES: utilities})
    setattr(torch, _COMPILER.rpartition(".")[2], compiler)


def _real(name: str) -> ModuleType:
    import torch

    for one in (_UTILITIES, _COMPILER):
        if isinstance(sys.modules.get(one), _Postponed):
            del sys.modules[one]
    vars(torch).pop(_COMPILER.rpartition(".")[2], None)
    return importlib.import_module(name)


def _disable(function: Callable[..., object] | None = None, *_: object, **__: object) -> object:
    """Of a function that nobody compiles, nothing has to be kept."""
    return (lambda one: one) if function is None else function


def _graph_break(*_: object, **__: object) -> None:
    """Outside a compiled function there is no graph to break."""


def _is_compile_supported(device: str) -> object:
    return _real(_UTILITIES).is_compile_supported(device)
