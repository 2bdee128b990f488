"""The folder of a local job: its channels, its record and its lock."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.local.run_folder import RunFolder, RunRequest, create_run, default_root, open_run
from finetune.sagemaker.config_files import read_job_files


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "test.csv").write_text("text,label\n", encoding="utf-8")
    channels = {"train": tmp_path / "images", "test": tmp_path / "test.csv"}
    return create_run(RunRequest(channels, {"epochs": "2"}), tmp_path / "runs" / "one")


def test_a_job_finds_its_request(run: RunFolder) -> None:
    files = read_job_files(run.paths)
    assert files.hyperparameters == run.hyperparameters() == {"epochs": "2"}
    assert set(files.channels) == {"train", "test"}
    assert (run.paths.channel("train") / "cat").is_dir()
    assert not (run.paths.channel("test") / "test.csv").is_symlink()
    assert (run.paths.channel("test") / "test.csv").read_text(encoding="utf-8") == "text,label\n"


def test_a_folder_with_files_is_not_overwritten(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        create_run(RunRequest({}, {}), run.root)
    assert open_run(run.root) == run
    with pytest.raises(UserError, match=r"contains no run\.json"):
        open_run(tmp_path)


def test_status_follows_the_starts_of_the_job(run: RunFolder) -> None:
    metrics = run.paths.output_data / "metrics.json"
    assert run.status() == "interrupted"
    run.note_start(datetime.now(tz=UTC))
    with run.locked():
        assert run.status() == "running"
        with pytest.raises(UserError, match="is running in another process"), run.locked():
            pass
    assert run.status() == "interrupted"
    assert run.note_end(2.0, 1) == run.status() == "failed"
    run.note_start(datetime.now(tz=UTC))
    assert run.note_end(1.0, -15, stopped=True) == "stopped"
    run.note_start(datetime.now(tz=UTC))
    metrics.write_text(json.dumps({"job": {"finished": False}}), encoding="utf-8")
    assert run.note_end(1.0, 0) == "stopped"
    run.note_start(datetime.now(tz=UTC))
    metrics.write_text(json.dumps({"job": {"finished": True}}), encoding="utf-8")
    assert run.note_end(1.5, 0) == run.status() == "finished"
    assert run.seconds() == pytest.approx(5.5)


def test_the_default_name_is_that_of_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "My photos!" / "train"
    folder.mkdir(parents=True)
    root = default_root(folder, runs=tmp_path)
    assert root.name.startswith("My-photos-2")
    assert default_root(tmp_path / "reviews.csv.gz", runs=tmp_path).name.startswith("reviews-")
    root.mkdir()
    assert default_root(folder, runs=tmp_path) != root
