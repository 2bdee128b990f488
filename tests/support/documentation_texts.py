"""Real texts with real labels: Python's docstrings and the modules they belong to."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
import warnings
from collections.abc import Iterator
from types import ModuleType

MODULES = ("asyncio", "datetime", "decimal", "email", "http", "ipaddress", "logging", "tarfile")
MIN_LENGTH = 40


def documentation_texts(per_module: int) -> list[tuple[str, str]]:
    """(module, text) pairs with `per_module` different texts of each module, in a fixed shuffled order."""
    texts_by_module: list[tuple[str, str]] = []
    owners: dict[str, str] = {}
    for name in MODULES:
        texts = {text for module in _with_submodules(name) for text in _texts_of(module, name)}
        new_texts = sorted(text for text in texts if owners.setdefault(text, name) == name)
        random.Random(0).shuffle(new_texts)
        texts_by_module += [(name, text) for text in new_texts[:per_module]]
    random.Random(1).shuffle(texts_by_module)
    return texts_by_module


def _with_submodules(name: str) -> Iterator[ModuleType]:
    module = importlib.import_module(name)
    yield module
    for entry in pkgutil.iter_modules(getattr(module, "__path__", ())):
        # Some modules exist on a single operating system only, or are deprecated.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if not entry.name.startswith(("_", "windows")):
                yield importlib.import_module(f"{name}.{entry.name}")


def _texts_of(owner: ModuleType | type, name: str) -> Iterator[str]:
    """Docstrings of the functions and classes that the module defines, and of the members of those classes."""
    for member in vars(owner).values():
        if isinstance(owner, ModuleType):
            defined_in = getattr(member, "__module__", None) or ""
            if not callable(member) or defined_in.lstrip("_").partition(".")[0] != name:
                continue
        text = getattr(member, "__doc__", None)
        documented = callable(member) or isinstance(member, property | classmethod | staticmethod)
        if documented and isinstance(text, str) and len(text) >= MIN_LENGTH:
            yield inspect.cleandoc(text)
        if isinstance(owner, ModuleType) and inspect.isclass(member):
            yield from _texts_of(member, name)
