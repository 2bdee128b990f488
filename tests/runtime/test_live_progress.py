"""Progress in a file for the process that started the job."""

from __future__ import annotations

from pathlib import Path

from finetune.monitoring.progress import ProgressReport
from finetune.runtime.live_progress import VARIABLE, Progress, ProgressWriter, read_progress


def test_progress_is_replaced_and_read(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    writer = ProgressWriter(path)
    writer.write(Progress("epoch 1/2", 3, 10, "steps", 12.5, 0.5))
    writer.write(Progress("epoch 1/2", 4, 10))
    assert read_progress(path) == Progress("epoch 1/2", 3, 10, "steps", 12.5, 0.5)
    path.write_text("[1]", encoding="utf-8")
    assert read_progress(path) is None


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    variables = {VARIABLE: str(tmp_path / "progress.json")}
    assert ProgressWriter.from_environment(variables).is_enabled
    assert not ProgressWriter.from_environment(variables | {"RANK": "1"}).is_enabled
    assert not ProgressWriter.from_environment({}).is_enabled
    ProgressWriter(tmp_path / "absent" / "progress.json").write(Progress("epoch", 1, 2))


def test_epochs_report_their_share_of_the_job(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    report = ProgressReport(10, 4, ProgressWriter(path))
    report.begin(2, 0)
    assert report.due()
    report.update(5, 320, 0.25)
    progress = read_progress(path)
    assert progress is not None
    assert (progress.stage, progress.done, progress.total, progress.loss) == ("epoch 3/4", 25, 40, 0.25)
