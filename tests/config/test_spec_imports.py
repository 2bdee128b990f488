"""Validating a request imports nothing that only the job needs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import finetune.config

PROGRAM = """
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
sys.exit(" ".join(sorted({heavy!r} & sys.modules.keys())) or None)
"""


def test_config_does_not_import_torch_or_transformers() -> None:
    names = [f"finetune.config.{module.name}" for module in pkgutil.iter_modules(finetune.config.__path__)]
    assert "finetune.config.parse" in names
    program = PROGRAM.format(names=names, heavy={"torch", "torchvision", "transformers", "numpy", "pandas"})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
