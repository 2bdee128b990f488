"""Imports the handler of an artifact, `code/inference.py`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

HANDLER_FILE = "code/inference.py"


def load_handler(folder: Path) -> ModuleType:
    """Import the handler of the artifact in `folder` from its path, without writing bytecode into the artifact.

    The module is not kept in `sys.modules`, so handlers of several artifacts can be used at once. Not thread-safe.

    Raises:
        FileNotFoundError: the file is missing.
    """
    name, path = "artifact_inference", folder / HANDLER_FILE
    loader = _NoBytecodeLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None or not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module in `sys.modules` while it is executed.
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


class _NoBytecodeLoader(importlib.machinery.SourceFileLoader):
    """Source loader that neither reads nor writes `__pycache__`, which would become part of the artifact."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError(f"bytecode of {path} is not cached")
