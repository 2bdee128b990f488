"""A job imports only the modules it needs, because imports take most of the time before its first step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sagemaker_simulator import JobFolder, lay_out
from tests.support.whole_jobs import ENVIRONMENT, build_request

HEAVY = {"torch", "torchvision", "transformers", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "boto3"}
CODE = "import json, sys; from finetune.entry import run; code = run(); print(json.dumps([code, sorted(sys.modules)]))"


def run_and_list_modules(folder: JobFolder) -> tuple[int, set[str]]:
    environment = {**ENVIRONMENT, "SAGEMAKER_BASE_DIR": str(folder.root)}
    process = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(process.stdout.splitlines()[-1])
    return exit_code, set(modules)


def test_invalid_request_is_refused_before_torch_is_imported(tmp_path: Path, holdout: Path) -> None:
    folder = lay_out(tmp_path / "opt-ml", build_request({"train": holdout}, {"epochs": "many"}))
    exit_code, modules = run_and_list_modules(folder)
    assert exit_code == 1
    assert not HEAVY & modules


def test_image_job_imports_only_torch_and_torchvision(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"strategy": "feature_extraction", "epochs": "1"}
    folder = lay_out(tmp_path / "opt-ml", build_request({"train": holdout, "model": artifact}, options))
    exit_code, modules = run_and_list_modules(folder)
    assert exit_code == 0
    assert HEAVY & modules == {"torch", "torchvision"}


def test_garbage_collection_is_enabled_after_imports(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {"strategy": "feature_extraction", "epochs": "1"}
    folder = lay_out(tmp_path / "opt-ml", build_request({"train": holdout, "model": artifact}, options))
    frozen = "gc.isenabled(), gc.get_freeze_count() > 1e5"
    code = f"import gc; from finetune.entry import run; code = run(); print(code, {frozen})"
    environment = {**ENVIRONMENT, "SAGEMAKER_BASE_DIR": str(folder.root)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "0 True True"
