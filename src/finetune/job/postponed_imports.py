"""How does a job do without what its libraries import and it does not use?

`torch._dynamo`, torch's compiler, with sympy and 850 modules in all, takes longer to import than torch itself: half of
the time before the first step. torchvision imports it for one function of detection networks, every optimizer for a
call that does nothing outside a compiled function, transformers for masks and for kernels of other networks.
What the compiler wants to know of operations (`torch._meta_registrations`, `torch._decomp`) torch imports by itself,
for a fifth of its own time; networks that are built without memory need none of it. torchvision imports its data sets,
and torch's exporter to ONNX to tell it of operations of detection networks; both import much for whoever uses it.
`sklearn.metrics`, with pandas and much of SciPy, takes another second, and transformers imports it for one function of
text generation. sagemaker-training imports `paramiko`, with cryptography, for MPI over several hosts, and `boto3`, of
which it asks at every start for the region alone. So something stands in their place that knows what these libraries
want of them, and becomes the real module as soon as it is asked for anything else, such as by `torch.compile`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

_COMPILER, _METRICS, _SHELL, _AWS = "torch._dynamo", "sklearn.metrics", "paramiko", "boto3"
_SHAPES, _PARTS = "torch._meta_registrations", "torch._decomp"
_DATA_SETS, _EXPORTED = "torchvision.datasets", "torchvision.ops._register_onnx_ops"
# What torch and torchvision import for whoever uses it, and no job here does.
_UNUSED = (
    *("torch.export", "torch.distributions", "torch.masked", "torch.quantization", "torch.utils.data"),
    *("torch.nn.intrinsic", "torch.nn.qat", "torch.nn.quantizable", "torch.nn.quantized"),
    *("torchvision.models.detection", "torchvision.models.optical_flow", "torchvision.models.quantization"),
    *("torchvision.models.segmentation", "torchvision.models.video"),
)
# Whoever registers an operation is asked for its module.
_REGISTERING = ("torch.utils._debug_mode", "torchvision._meta_registrations")
# Who asks these for their path looks for a module in them.
_SEARCHED = frozenset((name, "__path__") for name in (_COMPILER, _SHELL, _AWS, _PARTS, _DATA_SETS, *_UNUSED))
# Both are looked for among all installed packages, whatever those are: 10 ms each.
_PLUGINS = {"PYDANTIC_DISABLE_PLUGINS": "__all__", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
# Where the SDK looks for a region beside its own variable.
_REGION = "AWS_DEFAULT_REGION"
_PROFILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_Function = TypeVar("_Function", bound=Callable[..., object])


class _Postponed(ModuleType):
    """Stands for a module until it is asked for what it has not."""

    def __getattr__(self, name: str) -> object:
        """Import the real module and ask that; names with underscores, `inspect` and others ask every module for."""
        if name.startswith("__") and (self.__name__, name) not in _SEARCHED:
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _AlreadyThere:
    """Finds modules within a package that became real only when their import asked where the package lies.

    They are loaded by then, and would be a second time.
    """

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """One that loads nothing, for a module that is there."""
        within = fullname.startswith(tuple(f"{name}." for name, _ in _SEARCHED))
        return (
            ModuleSpec(fullname, cast("Loader", self))
            if within and fullname in sys.modules and target is None
            else None
        )

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """What is there."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """It was run."""


def look_for_no_plugins() -> None:
    """Let pydantic and torch not look for extensions in other packages, unless the environment says otherwise."""
    for name, nothing in _PLUGINS.items():
        os.environ.setdefault(name, nothing)


def postpone_imports() -> None:
    """Put something in the place of what libraries import and a job does not use, unless it is there already."""
    if "torch" not in sys.modules:
        for name in (_SHAPES, _PARTS, *_unused("torch")):
            _stand_in(name)
    _tell_who_registers()
    import torch

    for name in _unused("torch"):
        above, _, last = name.rpartition(".")
        # An import that finds it there does not do so.
        setattr(sys.modules[above], last, sys.modules[name])
    if "torchvision" not in sys.modules:
        for name in (_DATA_SETS, *_unused("torchvision")):
            _stand_in(name)
        _stand_in(_EXPORTED, _register_custom_op=_nothing)

    if _COMPILER not in sys.modules:
        compiler = _stand_in(
            _COMPILER,
            disable=_disable,
            graph_break=_nothing,
            # They mark functions for whoever compiles them later: kernels that none of our networks has.
            assume_constant_result=_unchanged,
            allow_in_graph=_unchanged,
        )
        setattr(torch, _COMPILER.rpartition(".")[2], compiler)
        _forwarding(f"{_COMPILER}.utils", "is_compile_supported")
        _forwarding(f"{_COMPILER}._trace_wrapped_higher_order_op", "TransformGetItemToIndex")
    if _METRICS not in sys.modules:
        _forwarding(_METRICS, "roc_curve")


def postpone_clients() -> None:
    """Put something in the place of what reaches other hosts and AWS, unless it is imported already."""
    if _SHELL not in sys.modules:
        _stand_in(_SHELL)
    if _AWS not in sys.modules:
        transfer = _stand_in(f"{_AWS}.s3.transfer")
        _stand_in(_AWS, s3=_stand_in(f"{_AWS}.s3", transfer=transfer), session=_stand_in(f"{_AWS}.session"))
        vars(sys.modules[f"{_AWS}.session"])["Session"] = _Session


class _Session:
    """What sagemaker-training makes at every start to ask it for the region; anything else is asked of a real one."""

    def __init__(self, *given: object, **named: object) -> None:
        self._given, self._named = given, named

    def __getattr__(self, name: str) -> object:
        profiles = any(one in os.environ for one in _PROFILES) or Path("~/.aws").expanduser().exists()
        if name == "region_name" and not (self._given or self._named or profiles):
            return os.environ.get(_REGION)
        return getattr(vars(_real(f"{_AWS}.session"))["Session"](*self._given, **self._named), name)


def _unused(package: str) -> list[str]:
    return [name for name in _UNUSED if name.partition(".")[0] == package]


def _tell_who_registers() -> None:
    """Tell `inspect` which modules register operations while they are imported.

    It would look for their files among those of all modules, of which it resolves every path: 40 ms and 60 ms.
    """
    for module in _REGISTERING:
        package, *names = module.split(".")
        found = find_spec(package)
        if found is not None and found.origin is not None:
            inspect.modulesbyfile[str(Path(found.origin).parent.joinpath(*names).with_suffix(".py"))] = module


def _stand_in(module: str, **known: object) -> ModuleType:
    if not any(isinstance(finder, _AlreadyThere) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AlreadyThere())
    sys.modules[module] = _Postponed(module)
    # Who asks whether it is installed looks for this alone.
    vars(sys.modules[module]).update(known, __spec__=ModuleSpec(module, None))
    return sys.modules[module]


def _forwarding(module: str, name: str) -> None:
    """Put something in the place of a module that knows one name, and calls the real one when that is called."""

    def call(*arguments: object, **named: object) -> object:
        return getattr(_real(module), name)(*arguments, **named)

    _stand_in(module, **{name: call})


def _real(name: str) -> ModuleType:
    packages: tuple[str, ...] = (name.partition(".")[0],) if name.startswith(_AWS) else (name,)
    if name.startswith("torch.") and name not in _UNUSED:
        # One imports the next, and would find what stands there for it; whoever wants the compiler wants all.
        packages = (_SHAPES, _PARTS, *((_COMPILER,) if name.startswith(_COMPILER) else ()))
    stood = {one: module for one, module in sys.modules.items() if isinstance(module, _Postponed)}
    stood = {one: module for one, module in stood.items() if one.startswith(packages)}
    for one in stood:
        del sys.modules[one]
        above, _, last = one.rpartition(".")
        if above in sys.modules and isinstance(vars(sys.modules[above]).get(last), _Postponed):
            delattr(sys.modules[above], last)
    for package in (*packages, *stood):
        importlib.import_module(package)
    for one, module in stood.items():
        # Whoever holds it gets what is real from now on, also of what it knew.
        vars(module).update({key: value for key, value in vars(sys.modules[one]).items() if not key.startswith("__")})
    return importlib.import_module(name)


def _disable(function: Callable[..., object] | None = None, *_: object, **__: object) -> object:
    """Of a function that nobody compiles, nothing has to be kept."""
    return (lambda one: one) if function is None else function


def _nothing(*_: object, **__: object) -> None:
    """Outside a compiled function there is no graph to break, and nobody exports a network to ONNX."""


def _unchanged(function: _Function) -> _Function:
    """A function that nobody compiles needs no mark."""
    return function
