"""A disk without room for checkpoints costs checkpoints, not the job; earlier ones stay intact."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.checkpoint import CheckpointStore
from sagemaker_simulator import JobFolder, Storage, TrainingJob, lay_out
from tests.interruptions.jobs import vision_job
from tests.interruptions.moments import after_line
from tests.interruptions.results import assert_same_bits, left_in
from tests.interruptions.starts import Zygote, follow, start

ROOM = 40 << 20
"""Size of the disk: the model's checkpoints have 18 MB, so two do not fit next to the other files."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[TrainingJob, JobFolder]]:
    """A prepared job with a small separate disk for the checkpoints."""
    job = vision_job(tmp_path / "job", "full")
    folder = lay_out(tmp_path / "opt-ml", job.request)
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("needs mount")
    command = [mount, "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder.checkpoints)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield job, folder
    subprocess.run(["umount", str(folder.checkpoints)], check=True)


@pytest.mark.slow
def test_training_continues_on_full_disk(
    machine: tuple[TrainingJob, JobFolder], zygote: Zygote, tmp_path: Path
) -> None:
    job, folder = machine
    whole = start(zygote, replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    (folder.checkpoints / "of-others").write_bytes(os.urandom(ROOM // 2))
    ended = follow(zygote, job, folder, None, None)
    assert ended.exit_code == 0, ended.log
    assert "No space left on device" in ended.log
    assert ended.epoch_lines() == whole.epoch_lines()
    assert_same_bits(left_in(folder), left_in(whole.folder))


@pytest.mark.slow
def test_last_complete_checkpoint_is_intact(
    machine: tuple[TrainingJob, JobFolder], zygote: Zygote, tmp_path: Path
) -> None:
    job, folder = machine
    whole = start(zygote, replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    moment = replace(after_line("epoch=", 0.0, 2), signals=(signal.SIGTERM,))
    stopped = follow(zygote, job, folder, None, moment)
    assert stopped.exit_code == 0, stopped.log
    good = CheckpointStore(folder.checkpoints).newest_complete()
    assert good is not None
    left = shutil.disk_usage(folder.checkpoints).free
    (folder.checkpoints / "of-others").write_bytes(os.urandom(max(0, left - (1 << 20))))
    assert follow(zygote, job, folder, None, after_line("epoch=", 0.0, 1)).disturbed
    still = CheckpointStore(folder.checkpoints).newest_complete()
    assert still is not None
    assert still.manifest.info.step >= good.manifest.info.step
    (folder.checkpoints / "of-others").unlink()
    rest = follow(zygote, job, folder, None, None)
    assert rest.exit_code == 0, rest.log
    assert_same_bits(left_in(folder), left_in(whole.folder))
