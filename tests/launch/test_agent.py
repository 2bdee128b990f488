"""The agent starts processes, and names a port that is taken; torchrun can take its place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import PlatformError
from finetune.launch.agent import Nodes, run_processes
from finetune.sagemaker.interruption import Interruption
from sagemaker_simulator import lay_out
from tests.interruptions.jobs import text_job
from tests.support.whole_jobs import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow


def test_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        with pytest.raises(PlatformError, match=f"cannot find each other on port {port} of 127.0.0.1"):
            run_processes(1, Interruption(), Nodes(port=port))


def test_stopped_job_starts_no_process() -> None:
    interruption = Interruption()
    interruption.request()
    assert run_processes(1000, interruption) is None


def test_torchrun_starts_the_processes(tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full", virtual_devices="2", epochs="1")
    folder = lay_out(tmp_path / "opt-ml", job.request)
    folder.failure.write_text("of an earlier job", "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "finetune"]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src"), "SAGEMAKER_BASE_DIR": str(folder.root)}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.count("\nDone.") == 1
    assert (folder.model / "model.safetensors").exists()
    assert not folder.failure.exists()
