"""Folders that the job's user cannot write are named before training, with exit code 2."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder, lay_out
from tests.support.whole_jobs import ENVIRONMENT, TRAIN, build_request

WITHOUT_PRIVILEGES = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
"""Drops the capabilities that let root write everywhere."""


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    (tmp_path / "train").mkdir()
    folder = lay_out(tmp_path / "ml", build_request({"train": tmp_path / "train"}, {"model_name": "resnet18"}))
    folder.output_data.mkdir(parents=True, exist_ok=True)
    folder.model.mkdir(exist_ok=True)
    (folder.root / "checkpoints").mkdir(exist_ok=True)
    return folder


def run(folder: JobFolder, locked: Path, mode: int) -> tuple[int, str]:
    previous_mode = locked.stat().st_mode
    command: tuple[str, ...] = TRAIN
    if os.geteuid() == 0:
        if shutil.which(WITHOUT_PRIVILEGES[0]) is None:
            pytest.skip("needs setpriv, since root may write everywhere")
        command = (*WITHOUT_PRIVILEGES, *TRAIN)
    variables = {**ENVIRONMENT, "PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(folder.root)}
    locked.chmod(mode)
    try:
        process = subprocess.run(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    finally:
        locked.chmod(previous_mode)
    return process.returncode, process.stdout


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_unwritable_output_folder_is_reported_in_log(folder: JobFolder, mode: int) -> None:
    code, log = run(folder, folder.output, mode)
    assert code == 2
    assert str(folder.output) in log
    assert "Traceback" not in log


@pytest.mark.parametrize("mode", [0o000, 0o500])
@pytest.mark.parametrize("name", ["model", "output/data", "checkpoints"])
def test_unwritable_folder_is_reported_before_data_is_read(folder: JobFolder, name: str, mode: int) -> None:
    code, log = run(folder, folder.root / name, mode)
    assert code == 2
    cause = (folder.output / "failure").read_text("utf-8").splitlines()[0]
    assert cause.startswith(f"{folder.root / name} cannot be written by user {os.getuid()}: Permission denied.")
    assert cause in log


def test_check_leaves_no_files(folder: JobFolder) -> None:
    code, _ = run(folder, folder.root, 0o700)
    assert code == 1  # the channel is empty
    assert list((folder.root / "checkpoints").iterdir()) == []
    assert list(folder.model.iterdir()) == []
