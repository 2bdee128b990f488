"""`finetune serve` serves the model of a job on this machine until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from finetune.errors import UserError
from tests.cli.conftest import Finetune
from tests.support.exported_models import LABELS
from tests.support.servers import RunningServer, free_port

PROGRAM = "from finetune.cli.app import main; main()"


@pytest.mark.slow
def test_archived_model_is_served_until_the_interrupt(image_root: Path, images: list[bytes], tmp_path: Path) -> None:
    archive, scratch, port = tmp_path / "model.tar.gz", tmp_path / "scratch", free_port()
    scratch.mkdir()
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(image_root / "model", ".")
    command = (sys.executable, "-c", PROGRAM, "serve", str(archive), "--port", str(port))
    log_file = tmp_path / "log"
    with (
        log_file.open("w") as log,
        subprocess.Popen(
            command, env={**os.environ, "TMPDIR": str(scratch)}, stdout=log, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        try:
            server = RunningServer(process, port, log_file)
            server.wait_until_ready()
            assert server.post(images[0], "image/png").json()["labels"] == list(LABELS)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert list(scratch.iterdir()) == []


def test_folder_without_a_model_is_refused(finetune_command: Finetune, tmp_path: Path) -> None:
    error = finetune_command("serve", tmp_path).exception
    assert isinstance(error, UserError)
    assert "contains no model of this project" in str(error)
