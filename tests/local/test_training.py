"""Training in Python and by commands: stopped, resumed and failed jobs in child processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import finetune
from finetune.errors import UserError
from finetune.local.log_events import Epoch, Event, Text
from finetune.local.process import SilentListener, StopRequests, run_job
from finetune.local.training import TrainingOptions, TrainingRun, prepare
from tests.cli.conftest import Finetune
from tests.cli.conftest import finetune_command as finetune_command
from tests.support.coloured_images import write_images

SETTINGS = {"strategy": "from_scratch", "image_size": 32, "epochs": 3}


class Recorder(SilentListener):
    """Records the events, and interrupts this process as Ctrl-C does after the first epoch."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stops = 0

    def event(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Epoch) and event.number == 1:
            signal.raise_signal(signal.SIGINT)

    def stopping(self) -> None:
        self.stops += 1


@pytest.mark.slow
def test_a_stopped_job_is_resumed_and_its_model_used(tmp_path: Path, finetune_command: Finetune) -> None:
    data = tmp_path / "colors"
    write_images(data / "train", 8)
    write_images(data / "test", 2, first=100)
    run = prepare(TrainingOptions(data, {}, "resnet18", SETTINGS, tmp_path / "run"))
    recorder = Recorder()
    assert run_job(run, recorder) == run.status() == "stopped", run.log.read_text()
    assert recorder.stops == 1
    assert Text("Stopped on request; exported the partially trained model.") in recorder.events
    assert (run.root / "checkpoints").is_dir()

    resumed = finetune_command("resume", run.root, "--quiet")
    assert resumed.exit_code == 0, resumed.output
    assert "accuracy" in resumed.stdout
    assert f"finetune predict {run.root}" in resumed.stdout
    log = run.log.read_text(encoding="utf-8")
    assert log.count("\nepoch=1; ") == 1
    assert "\nepoch=3; " in log
    assert not (run.root / "checkpoints").exists()

    again = finetune_command("resume", run.root)
    assert isinstance(again.exception, UserError)
    assert "nothing to resume" in str(again.exception)

    done = TrainingRun(run.root, run.status())
    assert done.score is not None
    assert (done.score.part, done.score.records) == ("test", 6)
    assert done.metrics["job"]["finished"]
    assert done.report_path.is_file()
    assert done.load("cpu").labels == ("blue", "green", "red")


def test_a_job_without_use_is_killed(tmp_path: Path) -> None:
    write_images(tmp_path / "colors", 1)
    run = prepare(TrainingOptions(tmp_path / "colors", {}, None, {}, tmp_path / "run"))
    requests = StopRequests()
    requests.discard()
    assert run_job(run, SilentListener(), requests) == "stopped"
    assert run.record()["starts"][0]["exit_code"] == -signal.SIGKILL


def test_a_failed_job_raises_its_cause(tmp_path: Path, finetune_command: Finetune) -> None:
    write_images(tmp_path / "colors", 1, names=("red",))
    with pytest.raises(UserError, match="validation:speed' is never printed"):
        # Found before PyTorch is imported.
        finetune.train(tmp_path / "colors", output=tmp_path / "run", _tuning_objective_metric="validation:speed")
    failed = finetune_command("resume", tmp_path / "run")
    assert isinstance(failed.exception, UserError)
    message = str(failed.exception)
    assert message.startswith("_tuning_objective_metric='validation:speed' is never printed")
    assert message.endswith(f"\nlog        {tmp_path / 'run' / 'job.log'}")
    assert "ERROR" not in failed.output


def test_a_wrong_request_creates_no_folder(tmp_path: Path, finetune_command: Finetune) -> None:
    write_images(tmp_path / "colors", 1, names=("red",))
    for arguments, cause in (
        (["-p", "epochs=none"], "epochs"),
        (["-p", "epochs"], "expected --hyperparameter NAME=VALUE"),
        (["-p", "epochs=1", "-p", "epochs=2"], "more than once"),
        (["--test", tmp_path / "absent"], "there is no such file or folder"),
        (["-m", "resnet18", "-p", "model_name=resnet18"], "given twice"),
    ):
        failed = finetune_command("train", tmp_path / "colors", "--output", tmp_path / "run", *arguments)
        assert isinstance(failed.exception, UserError)
        assert cause in str(failed.exception)
        assert not (tmp_path / "run").exists()
