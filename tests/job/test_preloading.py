"""Are torch's libraries loaded while a job imports other modules, and does nothing wait for them but torch?"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from finetune.job.preloading import COMPILED, import_meanwhile, preload_torch
from sagemaker_simulator import lay_out
from whole_jobs import ENVIRONMENT, request_of


def said(code: str, *folders: Path) -> str:
    environment = {**ENVIRONMENT, "PYTHONPATH": ":".join([*map(str, folders), ENVIRONMENT["PYTHONPATH"]])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


LOADED = """
import re
def loaded():
    with open("/proc/self/maps") as maps:
        return sorted(set(re.findall(r"/(libtorch_[a-z_]+)\\.so", maps.read())))
from finetune.job.preloading import preload_torch
thread = preload_torch()
thread.join()
"""


def test_libraries_are_there_before_torch_is_imported_and_torch_works() -> None:
    code = """
import sys
before = loaded()
assert "torch" not in sys.modules
import torch
assert set(before) <= set(loaded())
assert torch.ones(3, 3).matmul(torch.ones(3, 3)).sum() == 27
print(*before)
"""
    found = said(LOADED + code).split()
    assert {"libtorch_cpu", "libtorch_cuda", "libtorch_global_deps"} <= set(found)
    assert "libtorch_python" not in found


def test_where_torch_is_there_already_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert preload_torch() is None


def test_where_other_libraries_may_come_first_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")
    assert preload_torch() is None


def test_where_torch_cannot_be_found_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr("finetune.job.preloading.find_spec", lambda name: None)
    assert preload_torch() is None


def test_libraries_that_cannot_be_loaded_are_left_to_torch(tmp_path: Path) -> None:
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text("told = 'torch itself'", "utf-8")
    (tmp_path / "torch" / "lib" / "libtorch_global_deps.so").write_bytes(b"no library")
    code = LOADED + "import torch; print(torch.told, *loaded())"
    assert said(code, tmp_path) == "torch itself"


def test_a_job_imports_no_other_compiled_module_before_torch(tmp_path: Path, unseen: Path, network: Path) -> None:
    wishes = {"strategy": "feature_extraction", "epochs": "1"}
    folder = lay_out(tmp_path / "opt-ml", request_of({"train": unseen, "model": network}, wishes))
    telling = {"PYTHONPROFILEIMPORTTIME": "1", "OMP_DISPLAY_ENV": "VERBOSE"}
    job = subprocess.run(
        [sys.executable, "-P", "-m", "container.job"],
        env={**ENVIRONMENT, **telling, "SAGEMAKER_BASE_DIR": str(folder.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    names = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", job.stderr, re.MULTILINE)
    before = names[: next(at for at, name in enumerate(names) if name.startswith("torch."))]
    assert {"sagemaker_training.trainer", "finetune.spec.hyperparameters"} <= set(before)
    packages = tuple(f"{name}." for name in COMPILED)
    others = {name for name in before if name not in COMPILED and not name.startswith(packages)}
    # With which the loader is called.
    assert {name for name in others if _is_compiled(name)} <= {"_ctypes"}
    # Whoever loads these libraries reads there how threads wait.
    assert "GOMP_SPINCOUNT = '1000'" in job.stderr


def test_what_is_imported_meanwhile_is_there_and_needs_no_torch() -> None:
    code = """
import sys
from finetune.job.preloading import MEANWHILE, import_meanwhile
import_meanwhile()
missing = [name for name in MEANWHILE if name not in sys.modules]
print(missing, [name for name in ("numpy", "torch", "torchvision", "transformers") if name in sys.modules])
"""
    assert said(code) == "[] []"


def test_what_is_imported_meanwhile_would_be_imported_anyway() -> None:
    code = """
import sys
from finetune.job.postponed_imports import postpone_imports
from finetune.job.preloading import MEANWHILE
postpone_imports()
import finetune.job.run
print([name for name in MEANWHILE if name not in sys.modules])
"""
    assert said(code) == "[]"


def test_what_is_not_installed_is_not_imported_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.job.preloading.MEANWHILE", ("no_such_module", "finetune.observe.metric_lines"))
    import_meanwhile()
    assert "finetune.observe.metric_lines" in sys.modules


def _is_compiled(name: str) -> bool:
    try:
        found = find_spec(name)
    except (ImportError, ValueError):  # made while it runs, as six's modules are
        return False
    return found is not None and str(found.origin).endswith(tuple(EXTENSION_SUFFIXES))
