"""Every host of a failed job ends with the first host's cause, also one that starts later."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder, lay_out
from tests.support.whole_jobs import ENVIRONMENT, TRAIN, build_request, train_in_folder

HOSTS = ["localhost", "127.0.0.2"]


def laid_out(workdir: Path, train: Path, host: str) -> JobFolder:
    folder = lay_out(workdir, build_request({"train": train}, {"model_name": "resnet18", "strategy": "from_scratch"}))
    resources = {"current_host": host, "hosts": HOSTS, "network_interface_name": "lo"}
    (folder.root / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources), "utf-8")
    return folder


@pytest.mark.slow
def test_late_host_ends_with_cause_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    first, second = (laid_out(tmp_path / host, tmp_path / "empty", host) for host in HOSTS)
    variables = {"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(first.root), **ENVIRONMENT}
    with subprocess.Popen(TRAIN, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as leader:
        assert leader.stdout is not None
        for line in leader.stdout:
            if "1 of 1 other hosts have not connected yet" in line:
                break
        # The cause is on disk before waiting for other hosts.
        cause = first.failure.read_text("utf-8")
        late = train_in_folder(second.root)
        leader.stdout.read()
    assert leader.returncode == 1
    assert cause.startswith("channel 'train' is empty")
    assert late.exit_code == 1
    assert late.failure == cause
