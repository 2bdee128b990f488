"""The folder of a local job: the folders of the training contract, its log, and a record of its starts.

runs/flowers-20250131-120000/
  input/        configuration and links to the data
  model/        the model artifact
  output/       report, metrics, predictions, failure
  checkpoints/  removed when the job is finished
  job.log       log of all starts
  run.json      name, data and starts of the job
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from finetune.errors import PlatformError, UserError
from finetune.runtime.atomic_files import write_text_atomically
from finetune.sagemaker.config_files import HYPERPARAMETERS, INPUT_DATA
from finetune.sagemaker.paths import Paths

RUNS = Path("runs")
Status = Literal["running", "finished", "stopped", "failed", "interrupted"]

_RECORD = "run.json"
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_MAX_NAME_LENGTH = 40
_SPLIT_NAMES = ("train", "training", "data")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A local job.

    Attributes:
        channels: absolute path of each channel, by name.
        hyperparameters: values by name, all of them strings.
    """

    channels: Mapping[str, Path]
    hyperparameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a local job."""

    root: Path

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.root.name

    @property
    def paths(self) -> Paths:
        """Folders of the training contract."""
        return Paths(self.root)

    @property
    def log(self) -> Path:
        """Log of all starts."""
        return self.root / "job.log"

    @property
    def progress(self) -> Path:
        """Progress of the running job."""
        return self.root / ".progress.json"

    @property
    def model(self) -> Path:
        """Folder of the model artifact."""
        return self.paths.model

    @property
    def report(self) -> Path:
        """The report, which need not exist."""
        return self.paths.output_data / "report.html"

    def hyperparameters(self) -> dict[str, str]:
        """Return the hyperparameters as they were given."""
        values = _read_json(self.paths.config / HYPERPARAMETERS)
        return {name: str(value) for name, value in values.items()}

    def metrics(self) -> dict[str, Any]:
        """Return `metrics.json`; empty before the job has written it."""
        return _read_json(self.paths.output_data / "metrics.json")

    def report_data(self) -> dict[str, Any]:
        """Return `report.json`; empty before the job has written it."""
        return _read_json(self.paths.output_data / "report.json")

    def record(self) -> dict[str, Any]:
        """Return `run.json`."""
        return _read_json(self.root / _RECORD)

    def failure(self) -> str:
        """Return the content of the failure file; empty if there is none."""
        with suppress(OSError):
            return self.paths.failure.read_text(encoding="utf-8", errors="replace")
        return ""

    def status(self) -> Status:
        """Return the status; `interrupted` if the job ended without a result, as at a power failure."""
        if self._is_locked():
            return "running"
        status = self.record().get("status")
        return status if status in {"finished", "stopped", "failed"} else "interrupted"

    def seconds(self) -> float:
        """Return the duration of all starts."""
        return float(sum(start.get("seconds", 0.0) for start in self.record().get("starts", [])))

    def note_start(self, started: datetime) -> None:
        """Record that the job starts."""
        record = self.record()
        starts = [*record.get("starts", []), {"started": started.isoformat(timespec="seconds")}]
        self._write(record | {"status": "running", "starts": starts})

    def note_end(self, seconds: float, exit_code: int, *, stopped: bool = False) -> Status:
        """Record the end of the last start, and return the status.

        Args:
            seconds: duration of the start.
            exit_code: exit code of the job's process.
            stopped: whether the process was ended by a signal on request.
        """
        record = self.record()
        record["starts"][-1] |= {"seconds": round(seconds, 1), "exit_code": exit_code}
        finished = bool(self.metrics().get("job", {}).get("finished"))
        status: Status = "stopped" if stopped else "failed" if exit_code else "finished" if finished else "stopped"
        self._write(record | {"status": status})
        return status

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of a finished job."""
        shutil.rmtree(self.paths.checkpoints, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the lock of the folder, and yield its file descriptor; a process that inherits it holds the lock, too.

        Raises:
            UserError: the job is running.
        """
        descriptor = os.open(self.root / _RECORD, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.root} is running in another process; wait for its end.") from error
            yield descriptor
        finally:
            os.close(descriptor)

    def _is_locked(self) -> bool:
        try:
            with self.locked():
                return False
        except UserError:
            return True

    def _write(self, record: Mapping[str, object]) -> None:
        # In place, because the lock belongs to the file.
        (self.root / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def create_run(request: RunRequest, root: Path) -> RunFolder:
    """Create the folder of a job, without copying data.

    Raises:
        UserError: the folder is not empty.
        PlatformError: the folder cannot be written.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"--output {root}: the folder is not empty; choose another one, or resume the job in it.")
    run = RunFolder(root.absolute())
    paths = run.paths
    try:
        for folder in (paths.config, paths.data, paths.model, paths.output_data, paths.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        for name, source in request.channels.items():
            _place(source, paths.channel(name))
        inputs = {name: {"TrainingInputMode": "File"} for name in request.channels}
        write_text_atomically(paths.config / HYPERPARAMETERS, json.dumps(dict(request.hyperparameters), indent=2))
        write_text_atomically(paths.config / INPUT_DATA, json.dumps(inputs, indent=2))
        record = {
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "data": {name: str(path) for name, path in request.channels.items()},
        }
        (run.root / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise PlatformError(f"The folder {root} cannot be written: {error.strerror or error}.") from error
    return run


def open_run(root: Path) -> RunFolder:
    """Return the folder of an existing job.

    Raises:
        UserError: it is not the folder of a job.
    """
    if not (root / _RECORD).is_file():
        raise UserError(f"{root} is not the folder of a job: it contains no {_RECORD}. `finetune train` creates one.")
    return RunFolder(root.absolute())


def default_root(data: Path, name: str | None = None, runs: Path = RUNS) -> Path:
    """Return the folder of a new job: `runs/NAME-TIME`, with the name of the data by default."""
    data = data.absolute()
    if name is None:
        stem = data.name if data.is_dir() else data.name.partition(".")[0]
        name = data.parent.name if stem.lower() in _SPLIT_NAMES else stem
    name = _UNSAFE.sub("-", name).strip("-")[:_MAX_NAME_LENGTH].strip("-") or "job"
    root = runs / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    return next(path for number in range(1, 1000) if not (path := _numbered(root, number)).exists())


def _numbered(root: Path, number: int) -> Path:
    return root if number == 1 else root.with_name(f"{root.name}-{number}")


def _place(source: Path, channel: Path) -> None:
    """Link a folder as a channel, or a file into one; a job ignores symbolic links that lead out of its channel."""
    if source.is_dir():
        channel.symlink_to(source, target_is_directory=True)
        return
    channel.mkdir()
    try:
        (channel / source.name).hardlink_to(source.resolve())
    except OSError:  # another file system
        shutil.copyfile(source, channel / source.name)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
