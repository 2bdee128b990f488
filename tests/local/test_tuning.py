"""A search samples trials, stops bad ones early, keeps the best model, and continues after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.local import tuning
from finetune.local.log_events import Epoch, FinalMetrics
from finetune.local.process import Listener, StopRequests
from finetune.local.run_folder import RunFolder, Status
from finetune.local.search_space import parse_ranges
from finetune.local.training import TrainingOptions
from finetune.local.tuning import Search
from tests.cli.conftest import Finetune
from tests.cli.conftest import finetune_command as finetune_command
from tests.support.coloured_images import write_images

METRIC = "validation:accuracy"
EPOCHS = 4


class Jobs:
    """Jobs that log an accuracy which depends on the learning rate alone, best at 0.5, without training.

    Attributes:
        started: learning rates of the jobs.
        stop_at: number of the job that is stopped on request.
        failing: whether all jobs fail.
    """

    def __init__(self) -> None:
        self.started: list[float] = []
        self.stop_at = -1
        self.failing = False

    def run(self, run: RunFolder, listener: Listener, requests: StopRequests) -> Status:
        learning_rate = float(run.hyperparameters()["learning_rate"])
        self.started.append(learning_rate)
        if self.failing:
            run.paths.failure.write_text("The data are wrong.", encoding="utf-8")
            return "failed"
        if len(self.started) - 1 == self.stop_at:
            return "stopped"
        (run.model / "artifact.json").touch()
        for epoch in range(1, EPOCHS + 1):
            listener.event(Epoch(epoch, {METRIC: epoch / EPOCHS * (1 - abs(learning_rate - 0.5))}))
            if requests.discards:
                return "stopped"
        listener.event(FinalMetrics({METRIC: 1 - abs(learning_rate - 0.5)}))
        return "finished"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    found = Jobs()
    monkeypatch.setattr(tuning, "run_job", found.run)
    return found


@pytest.fixture
def tune(tmp_path: Path, finetune_command: Finetune) -> Callable[..., str]:
    """Runs a search of 8 trials and returns its output."""
    write_images(tmp_path / "colors", 1)

    def run(*arguments: object) -> str:
        ranges = ("--search", "learning_rate=0.01..0.99", "--output", tmp_path / "search")
        done = finetune_command("tune", tmp_path / "colors", "--trials", 8, *ranges, *arguments)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    return run


def test_a_stopped_search_is_continued(jobs: Jobs, tune: Callable[..., str], tmp_path: Path) -> None:
    jobs.stop_at = 2
    first = tune()
    assert len(jobs.started) == 3
    assert "HyperparameterTuner" not in first

    output = tune()
    assert jobs.started[3] == jobs.started[2]  # the stopped trial is repeated
    assert len(jobs.started) == 9
    assert "stopped early at" in output
    assert "ContinuousParameter(0.01, 0.99)" in output
    best = min(jobs.started, key=lambda rate: abs(rate - 0.5))
    assert f"found    learning_rate={best:.4g}\n" in output
    models = [path.parent.parent.name for path in tmp_path.glob("search/trial-*/model/artifact.json")]
    assert len(models) == 1
    assert json.loads((tmp_path / "search" / models[0] / "input/config/hyperparameters.json").read_text()) == {
        "learning_rate": str(best)
    }

    tune()  # nothing is missing
    assert len(jobs.started) == 9
    with pytest.raises(UserError, match="contains another search"):
        tune("-p", "epochs=2")


def test_a_search_without_a_result_ends(jobs: Jobs, tune: Callable[..., str]) -> None:
    jobs.failing = True
    with pytest.raises(UserError, match=r"The first 3 trials failed, the last one because: The data are wrong\."):
        tune()
    assert len(jobs.started) == 3


def test_trials_that_were_running_are_repeated(jobs: Jobs, tune: Callable[..., str], tmp_path: Path) -> None:
    options = TrainingOptions(tmp_path / "colors", {"validation": None}, None, {}, tmp_path / "search")
    ranges = parse_ranges({"learning_rate": "0.01..0.99"})
    lost = tuning.open_study(Search(replace(options), ranges, METRIC, 8)).ask()
    learning_rate = lost.suggest_float("learning_rate", 0.01, 0.99)
    tune()
    assert jobs.started[0] == learning_rate


def test_a_dry_run_starts_nothing(jobs: Jobs, tune: Callable[..., str], tmp_path: Path) -> None:
    assert "'model_name': 'resnet18'" in tune("--dry-run", "--model", "resnet18")
    assert jobs.started == []
    assert not (tmp_path / "search").exists()
