"""Every host of a failed job ends with the same cause, also one that starts later."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder, lay_out
from tests.support.whole_jobs import ENVIRONMENT, TRAIN, build_request, train_in_folder

HOSTS = ["localhost", "127.0.0.2"]


def laid_out(workdir: Path, train: Path, host: str, **hyperparameters: str) -> JobFolder:
    options = {"model_name": "resnet18", "strategy": "from_scratch", **hyperparameters}
    folder = lay_out(workdir, build_request({"train": train}, options))
    resources = {"current_host": host, "hosts": HOSTS, "network_interface_name": "lo"}
    (folder.root / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources), "utf-8")
    return folder


@pytest.mark.slow
def test_late_host_ends_with_cause_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    first = laid_out(tmp_path / "first", tmp_path / "empty", HOSTS[0], epochs="1")
    second = laid_out(tmp_path / "second", tmp_path / "empty", HOSTS[1], epochs="2")
    variables = {"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(first.root), **ENVIRONMENT}
    with subprocess.Popen(TRAIN, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as leader:
        late = train_in_folder(second.root)
        assert leader.stdout is not None
        output = leader.stdout.read()
    assert leader.returncode == late.exit_code == 1
    assert "hyperparameter epochs" in late.failure
    assert late.failure == first.failure.read_text("utf-8")
    assert "hyperparameter epochs" in output
