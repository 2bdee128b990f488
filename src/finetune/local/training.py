"""Trains a model on this machine, for Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.parse import parse_hyperparameters
from finetune.errors import JobError, PlatformError, UserError
from finetune.local.channels import choose_model, find_channels
from finetune.local.process import Listener, SilentListener, run_job
from finetune.local.results import Score, cause_of_failure, score_of_run
from finetune.local.run_folder import RunFolder, RunRequest, Status, create_run, default_root, open_run

if TYPE_CHECKING:
    from finetune.serving.predictor import Predictor


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A training job on this machine that has ended.

    Attributes:
        path: folder of the job.
        status: `finished`, or `stopped` if it was interrupted; `resume` continues it.
    """

    path: Path
    status: Status

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of `metrics.json`."""
        return self._folder.metrics()

    @property
    def score(self) -> Score | None:
        """Score of the exported model; `None` if there were no records to evaluate."""
        return score_of_run(self._folder)

    @property
    def model_path(self) -> Path:
        """Folder of the model artifact, for `finetune.load`."""
        return self._folder.model

    @property
    def report_path(self) -> Path:
        """The report, `report.html`."""
        return self._folder.report

    @property
    def log_path(self) -> Path:
        """Log of the job."""
        return self._folder.log

    def load(self, device: str | None = None) -> Predictor:
        """Load the model for predictions; see `finetune.load`."""
        from finetune.serving.predictor import load_predictor  # imports PyTorch

        return load_predictor(self.model_path, device)

    def resume(self) -> TrainingRun:
        """Continue a stopped job, and return it.

        Raises:
            JobError: the job failed.
        """
        return finish(self._folder, SilentListener())

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """A training job as a user describes it.

    Attributes:
        data: a folder per class, a table, or anything else that the channel `train` may contain.
        channels: paths of further channels by name; `None` for those not given.
        model: name of a pretrained model, or the path of a model.
        hyperparameters: values by name.
        output: folder of the job; by default `runs/NAME-TIME`.
    """

    data: Path
    channels: Mapping[str, Path | None]
    model: str | None
    hyperparameters: Mapping[str, object]
    output: Path | None = None


def prepare(options: TrainingOptions, name: str | None = None) -> RunFolder:
    """Check a job, and create its folder.

    Raises:
        UserError: a path does not exist, or a hyperparameter is invalid.
        PlatformError: the folder cannot be written.
    """
    model = choose_model(options.model)
    values = {key: hyperparameter_text(value) for key, value in options.hyperparameters.items()}
    if model.name is not None:
        if "model_name" in values:
            raise UserError("The model is given twice: as model, and as hyperparameter model_name. Leave one out.")
        values["model_name"] = model.name
    channels = find_channels(options.data, {**options.channels, **({"model": model.path} if model.path else {})})
    parse_hyperparameters(values)
    root = options.output or default_root(options.data, name)
    return create_run(RunRequest(channels, values), root)


def hyperparameter_text(value: object) -> str:
    """Return the value of a hyperparameter as a request contains it."""
    return value if isinstance(value, str) else json.dumps(value)


def train(options: TrainingOptions) -> TrainingRun:
    """Train a model in a child process; see `finetune.train`."""
    return finish(prepare(options), SilentListener())


def resume(path: Path) -> TrainingRun:
    """Continue the job in a folder; see `finetune.resume`."""
    return finish(open_run(path), SilentListener())


def finish(run: RunFolder, listener: Listener) -> TrainingRun:
    """Run a job to its end.

    Raises:
        JobError: the job failed; the message is the cause.
    """
    return TrainingRun(run.root, check_ended(run, run_job(run, listener)))


def check_ended(run: RunFolder, status: Status) -> Status:
    """Return the status of a job that has not failed.

    Raises:
        JobError: it failed.
    """
    if status != "failed":
        return status
    exit_code = run.record()["starts"][-1]["exit_code"]
    kinds: dict[int, type[JobError]] = {UserError.exit_code: UserError, PlatformError.exit_code: PlatformError}
    raise kinds.get(exit_code, JobError)(cause_of_failure(run))
