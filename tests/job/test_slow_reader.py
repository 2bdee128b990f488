"""The job reports that it waits for data if reading is slow."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from finetune.data.readers.image_folder import ImageFolderReader
from finetune.data.record import Record
from tests.support.whole_jobs import run_training

pytestmark = pytest.mark.slow

OPTIONS = {"strategy": "full", "epochs": "2", "batch_size": "4"}


def test_waiting_for_data_is_logged(
    tmp_path: Path, holdout: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ImageFolderReader.read

    def slow(reader: ImageFolderReader, index: int) -> Record:
        time.sleep(0.2)
        return quick(reader, index)

    before = run_training(tmp_path / "quick", {"train": holdout, "model": artifact}, {**OPTIONS, "workers": "1"})
    monkeypatch.setattr(ImageFolderReader, "read", slow)
    after = run_training(tmp_path / "slow", {"train": holdout, "model": artifact}, {**OPTIONS, "workers": "1"})
    assert (before.exit_code, after.exit_code) == (0, 0), after.log
    assert "epoch 1: the device waited for data in " in after.log
    assert after.weights() == before.weights()
