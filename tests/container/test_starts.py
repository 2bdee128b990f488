"""Real starts of `container/train.py`: no thread runs while the environment is written, and no start crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder, lay_out
from tests.support.coloured_images import write_images
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import ENVIRONMENT, TRAIN, build_request

pytestmark = pytest.mark.slow

STARTS = 20
AUDIT = """
import os, sys

def hook(event, arguments):
    if event in ("os.putenv", "os.unsetenv"):
        with open(os.environ["AUDIT_FILE"], "a") as file:
            print(arguments[0].decode(), len(os.listdir("/proc/self/task")), file=file)

sys.addaudithook(hook)
"""
COUNT_THREADS = """
import os
import container.job, sagemaker_training.cli.train, finetune.entry
print(len(os.listdir("/proc/self/task")))
"""


def start(folder: JobFolder, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    # The variables that prevent threads in the other tests are set by the tests, not by the image.
    environment = {name: value for name, value in ENVIRONMENT.items() if name in {"PYTHONPATH", "HF_HUB_OFFLINE"}}
    environment |= {"PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": "us-east-1", **variables}
    environment |= {"SAGEMAKER_BASE_DIR": str(folder.root), "TORCHINDUCTOR_CACHE_DIR": str(folder.root / "inductor")}
    return subprocess.run(
        TRAIN,
        env=environment,
        cwd=folder.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def record_variables(
    root: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]
) -> list[tuple[str, int]]:
    """Names of the variables that a job sets, and the number of threads of its process at that time."""
    site = root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(AUDIT, "utf-8")
    variables = {"PYTHONPATH": f"{site}:{ENVIRONMENT['PYTHONPATH']}", "AUDIT_FILE": str(root / "audit")}
    process = start(lay_out(root / "ml", build_request(channels, hyperparameters)), variables)
    assert process.returncode == 0, process.stdout
    lines = (root / "audit").read_text("utf-8").splitlines()
    return [(name, int(threads)) for name, threads in (line.split() for line in lines)]


def test_image_job_sets_environment_in_single_thread(tmp_path: Path) -> None:
    channels = {"train": write_images(tmp_path / "train", 4)}
    hyperparameters = {"strategy": "from_scratch", "model_name": "resnet18", "image_size": "32", "epochs": "1"}
    variables = record_variables(tmp_path, channels, hyperparameters)
    assert {"CURRENT_HOST", "GOMP_SPINCOUNT"} <= {name for name, _ in variables}
    assert [(name, threads) for name, threads in variables if threads > 1] == []


def test_text_job_sets_environment_in_single_thread(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    rows = [json.dumps({"label": label, "text": f"the {label} cat sat {n}"}) for n in range(8) for label in ("a", "b")]
    (tmp_path / "train" / "rows.jsonl").write_text("\n".join(rows), "utf-8")
    channels = {"train": tmp_path / "train", "model": write_folder(tmp_path / "bert", "bert")}
    variables = record_variables(tmp_path, channels, {"epochs": "1", "max_length": "16", "strategy": "full"})
    assert {"CURRENT_HOST", "TOKENIZERS_PARALLELISM"} <= {name for name, _ in variables}
    assert [(name, threads) for name, threads in variables if threads > 1] == []


def test_startup_imports_start_no_thread() -> None:
    environment = {**ENVIRONMENT, "PATH": os.environ["PATH"]}
    process = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS], env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "1"


def test_repeated_failing_starts_never_end_by_signal(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    folder = lay_out(tmp_path / "ml", build_request({"train": tmp_path / "train"}, {"epochs": "many"}))
    processes = [start(folder, {}) for _ in range(STARTS)]
    unexpected = [process.stdout for process in processes if process.returncode != 1]
    assert unexpected == []
