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
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Zygote, follow, start

DISK_SIZE = 40 << 20
"""Size of the disk: the model's checkpoints have 18 MB, so two do not fit next to the other files."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[TrainingJob, JobFolder]]:
    """A prepared job with a small separate disk for the checkpoints."""
    job = vision_job(tmp_path / "job", "full")
    folder = lay_out(tmp_path / "opt-ml", job.request)
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("needs mount")
    command = [mount, "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder.checkpoints)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield job, folder
    subprocess.run(["umount", str(folder.checkpoints)], check=True)


@pytest.mark.slow
def test_training_continues_on_full_disk(
    machine: tuple[TrainingJob, JobFolder], zygote: Zygote, tmp_path: Path
) -> None:
    job, folder = machine
    reference = start(zygote, replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    (folder.checkpoints / "of-others").write_bytes(os.urandom(DISK_SIZE // 2))
    result = follow(zygote, job, folder, None, None)
    assert result.exit_code == 0, result.log
    assert "No space left on device" in result.log
    assert result.epoch_lines() == reference.epoch_lines()
    assert_same_bits(read_output(folder), read_output(reference.folder))


@pytest.mark.slow
def test_last_complete_checkpoint_is_intact(
    machine: tuple[TrainingJob, JobFolder], zygote: Zygote, tmp_path: Path
) -> None:
    job, folder = machine
    reference = start(zygote, replace(job, storage=Storage(tmp_path / "reference")), tmp_path / "whole")
    disturbance = replace(after_line("epoch=", 0.0, 2), signals=(signal.SIGTERM,))
    stopped = follow(zygote, job, folder, None, disturbance)
    assert stopped.exit_code == 0, stopped.log
    checkpoint = CheckpointStore(folder.checkpoints).newest_complete()
    assert checkpoint is not None
    free_bytes = shutil.disk_usage(folder.checkpoints).free
    (folder.checkpoints / "of-others").write_bytes(os.urandom(max(0, free_bytes - (1 << 20))))
    assert follow(zygote, job, folder, None, after_line("epoch=", 0.0, 1)).disturbed
    newest = CheckpointStore(folder.checkpoints).newest_complete()
    assert newest is not None
    assert newest.manifest.info.step >= checkpoint.manifest.info.step
    (folder.checkpoints / "of-others").unlink()
    resumed = follow(zygote, job, folder, None, None)
    assert resumed.exit_code == 0, resumed.log
    assert_same_bits(read_output(folder), read_output(reference.folder))
