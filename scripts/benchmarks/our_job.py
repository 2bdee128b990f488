"""Our job: started, stopped after its first new step, and restarted at another position."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.text_task import TextTask
from finetune.checkpoint import CheckpointStore, take_snapshot
from sagemaker_simulator import (
    Channel,
    JobResult,
    StopRequest,
    Storage,
    TrainingJob,
    TrainingRequest,
    run_job,
    toolkit_command,
)


@dataclass(frozen=True, slots=True)
class Held:
    """A stateful object with a given state."""

    state: Mapping[str, Any]

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""
        return self.state


@dataclass(slots=True)
class OurJob:
    """The job, its storage, and how long it took to stop.

    Attributes:
        stop_seconds: from SIGTERM to the exit of each start, including its last checkpoint and the export.
    """

    task: TextTask
    folder: Path
    stop_seconds: list[float] = field(default_factory=list)

    def first_start(self) -> float:
        """Train to step 10 and stop; return the seconds to the first step."""
        return self._start(10)

    def resume_at(self, position: int) -> float:
        """Resume from a checkpoint of that step; return the seconds to the first new step."""
        self._move_to(position)
        return self._start(position + 1)

    def _start(self, step: int) -> float:
        root = self.folder / "opt-ml"
        shutil.rmtree(root, ignore_errors=True)
        button = StopRequest()
        account = root / "checkpoints" / "account.json"
        before = self._account().get("start_seconds", 0.0)
        threading.Thread(target=_press_when, args=(button, account, step), daemon=True).start()
        result = run_job(self._job(), root, stop=button)
        if result.status != "Stopped" or result.exit_code:
            raise RuntimeError(result.log_text())
        self.stop_seconds.append(result.seconds_after_sigterm or 0.0)
        return _start_seconds(result) - before

    def _job(self) -> TrainingJob:
        request = TrainingRequest(
            channels=(Channel("train", self.task.table.parent), Channel("model", self.task.model)),
            hyperparameters={"epochs": "2", "batch_size": str(self.task.batch_size), "validation_fraction": "0"},
            environment={"SAGEMAKER_TRAINING_MODULE": "finetune.entry:main", "HF_HUB_OFFLINE": "1"},
        )
        return TrainingJob(request, toolkit_command(), Storage(self.folder / "s3"))

    def _account(self) -> dict[str, float]:
        path = self.folder / "s3" / "checkpoints" / "account.json"
        account: dict[str, float] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return account

    def _move_to(self, position: int) -> None:
        """Rewrite the newest checkpoint with another position."""
        store = CheckpointStore(self.folder / "s3" / "checkpoints")
        loaded = store.restore()
        if loaded is None:
            raise RuntimeError("the first start has written no checkpoint")
        epoch, step_in_epoch = divmod(position, self.task.steps_per_epoch)
        moved = {"epoch": epoch, "step": position, "step_in_epoch": step_in_epoch, "stopped_early": False}
        parts = {**loaded.parts, "progress": moved}
        about = replace(loaded.manifest.info, step=position, best=False)
        store.write(take_snapshot({name: Held(state) for name, state in parts.items()}), about)
        account = self._account() | {"last_step": position}
        (self.folder / "s3" / "checkpoints" / "account.json").write_text(json.dumps(account), "utf-8")


def _press_when(button: StopRequest, account: Path, step: int) -> None:
    while not button.submitted:
        time.sleep(0.05)
        try:
            reached = json.loads(account.read_text("utf-8"))["last_step"]
        except (OSError, ValueError):
            continue
        if reached >= step:
            button.submit()


def _start_seconds(result: JobResult) -> float:
    """Start-up seconds of all starts so far, from the job's own history."""
    metrics = json.loads((result.folder.output_data / "metrics.json").read_text("utf-8"))
    return float(metrics["interruptions"]["start_seconds"])
