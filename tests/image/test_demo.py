"""The demo's jobs run in the image, as any user, without a network, on a read-only root."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from letters_to_digits.__main__ import LETTERS, STRATEGIES, Options, adapt, run
from letters_to_digits.channels import Channels, write_digits, write_letters
from letters_to_digits.jobs import JobFailedError, Outcome, read_metrics
from tests.image.containers import UNPRIVILEGED, ContainerRunner
from tests.support.whole_jobs import build_request

TESTED = 30
"""Images of each digit for the test."""


class ContainerJobs:
    """Runs the demo's jobs in containers on a prepared `/opt/ml`."""

    def __init__(self, runner: ContainerRunner, folder: Path) -> None:
        self.runner = runner
        self.folder = folder

    def run(self, name: str, channels: Mapping[str, Path], hyperparameters: Mapping[str, str]) -> Outcome:
        """Run a job; the model is the content of `/opt/ml/model`."""
        code, container = self.runner.run(self.folder / name, build_request(channels, hyperparameters), UNPRIVILEGED)
        if code:
            raise JobFailedError(container.log())
        return read_metrics(container.metrics(), 0.0, container.folder.model)


def write_few_digits(folder: Path, per_class: int) -> Channels:
    """The demo's digits, but only `TESTED` of each for the test, because evaluating all takes longer than training."""
    channels = write_digits(folder, per_class, 0)
    for digit in channels["test"].iterdir():
        for image in sorted(digit.iterdir())[TESTED:]:
            image.unlink()
    return channels


@pytest.mark.slow
def test_every_strategy_runs_in_image(runner: ContainerRunner, tmp_path: Path) -> None:
    container_jobs = ContainerJobs(runner, tmp_path)
    letters = write_letters(tmp_path / "letters", 2, 0)
    base = run(container_jobs, "base", letters, LETTERS | {"epochs": "2"})
    assert base is not None
    options = Options(tmp_path, per_class=5, variants=2, epochs=3, seed=0, show_logs=False)
    outcomes = adapt(container_jobs, write_few_digits(tmp_path / "digits", 5), base, options)
    assert tuple(outcomes) == STRATEGIES
    assert all(outcome.records["test"] == 10 * TESTED for outcome in outcomes.values())
    assert all(outcome.accuracy["test"] > 0.2 for outcome in outcomes.values())
