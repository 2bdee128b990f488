"""A job imports only the modules it needs, because imports take most of the time before its first step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sagemaker_simulator import JobFolder, lay_out
from tests.support.whole_jobs import ENVIRONMENT, request_of

HEAVY = {"torch", "torchvision", "transformers", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "boto3"}
CODE = "import json, sys; from finetune.entry import run; code = run(); print(json.dumps([code, sorted(sys.modules)]))"


def run_and_list_modules(folder: JobFolder) -> tuple[int, set[str]]:
    environment = {**ENVIRONMENT, "SAGEMAKER_BASE_DIR": str(folder.root)}
    ended = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(ended.stdout.splitlines()[-1])
    return exit_code, set(modules)


def test_a_bad_request_is_refused_before_torch_is_imported(tmp_path: Path, unseen: Path) -> None:
    folder = lay_out(tmp_path / "opt-ml", request_of({"train": unseen}, {"epochs": "many"}))
    exit_code, modules = run_and_list_modules(folder)
    assert exit_code == 1
    assert not HEAVY & modules


def test_a_job_with_pictures_imports_torch_and_torchvision_only(tmp_path: Path, unseen: Path, network: Path) -> None:
    wishes = {"strategy": "feature_extraction", "epochs": "1"}
    folder = lay_out(tmp_path / "opt-ml", request_of({"train": unseen, "model": network}, wishes))
    exit_code, modules = run_and_list_modules(folder)
    assert exit_code == 0
    assert HEAVY & modules == {"torch", "torchvision"}


def test_garbage_is_looked_for_again_when_all_is_imported(tmp_path: Path, unseen: Path, network: Path) -> None:
    wishes = {"strategy": "feature_extraction", "epochs": "1"}
    folder = lay_out(tmp_path / "opt-ml", request_of({"train": unseen, "model": network}, wishes))
    frozen = "gc.isenabled(), gc.get_freeze_count() > 1e5"
    code = f"import gc; from finetune.entry import run; code = run(); print(code, {frozen})"
    environment = {**ENVIRONMENT, "SAGEMAKER_BASE_DIR": str(folder.root)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "0 True True"
