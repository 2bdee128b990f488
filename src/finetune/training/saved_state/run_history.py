"""History of a job's starts and the cost of interruptions, stored alongside the checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.checkpoint.layout import IGNORED_SUFFIX, RUN_HISTORY_FILE
from finetune.monitoring.rules.finding import Finding

_INTERVAL_SECONDS = 1.0
_IMPORTED = time.monotonic()


@dataclass(slots=True)
class RunHistory:
    """Run history of the whole job, over all of its starts.

    Written once a second and at each checkpoint, separately from the checkpoints, so that steps lost with no checkpoint
    are counted too. Each checkpoint also contains a copy, for storage that receives only checkpoints. Work of a killed
    start after the last write, or lost with a machine before it was uploaded, is not counted: steps and seconds are
    lower bounds.

    Attributes:
        starts: Number of processes that have started this job.
        last_step: Last step known to have been finished by any of them.
        steps_repeated: Steps repeated after an interruption.
        start_seconds: Seconds from each process start to the end of its first step.
        load_seconds: Seconds spent reading checkpoints; part of `start_seconds`.
        stall_seconds: Seconds that steps waited for copies of the state.
        save_seconds: Seconds spent writing checkpoints in the background.
        run_seconds: Seconds from each process start to its last record.
        parts: Training seconds by part after each start's first step; see `finetune.monitoring.timing`.
        machine_findings: Wall-clock-based findings of the rules, as JSON values.
    """

    starts: int = 0
    last_step: int = 0
    steps_repeated: int = 0
    start_seconds: float = 0.0
    load_seconds: float = 0.0
    stall_seconds: float = 0.0
    save_seconds: float = 0.0
    run_seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    machine_findings: list[dict[str, object]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, with seconds rounded to three decimals."""
        plain = {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return plain | {"parts": {name: round(value, 3) for name, value in self.parts.items()}}


_TIMES = ("run_seconds", "start_seconds", "stall_seconds", "save_seconds")


@dataclass(slots=True)
class RunHistoryFile:
    """Maintains and writes the run history while the job runs.

    Attributes:
        folder: Checkpoint folder, or `None` if nothing is persisted.
        clock: Monotonic clock in seconds.
    """

    folder: Path | None
    clock: Callable[[], float] = time.monotonic
    account: RunHistory = field(default_factory=RunHistory)
    _earlier: RunHistory = field(default_factory=RunHistory)
    _first_step_parts: dict[str, float] = field(default_factory=dict)
    _part_seconds: Callable[[], Mapping[str, float]] = dict
    _checkpoint_seconds: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
    _last_write: float = float("-inf")
    _started: bool = False

    @property
    def seconds(self) -> float:
        """Seconds that the job has taken so far, over all of its starts."""
        return self._earlier.run_seconds + process_age()

    def open(self, *, restart: bool) -> None:
        """Count this start, in addition to earlier ones recorded in the folder unless `restart` is set."""
        self.account.starts = 1
        if self.folder is not None and not restart:
            # Ignore an invalid file: the run history is not worth failing the job.
            with suppress(OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
                saved = json.loads((self.folder / RUN_HISTORY_FILE).read_text("utf-8"))
                self.load_state_dict(saved if isinstance(saved, dict) else {})
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return the run history so far for a checkpoint, and write it to the folder as well."""
        self._write()
        return self.account.as_json()

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Merge the run history of an earlier start, from the folder or a checkpoint; the higher counts win.

        Raises:
            ValueError: The run history does not have the expected form.
        """
        numbers = {name: value for name, value in asdict(self.account).items() if isinstance(value, int | float)}
        earlier = {name: type(value)(state.get(name, 0)) for name, value in numbers.items()}
        parts = {str(name): float(value) for name, value in dict(state.get("parts", {})).items()}
        findings = [Finding.from_json(finding).as_json() for finding in state.get("machine_findings", ())]
        if not all(math.isfinite(value) and value >= 0 for value in (*earlier.values(), *parts.values())):
            raise ValueError("the run history contains a negative or non-finite number")
        earlier["starts"] += 1  # this start
        for name, value in earlier.items():
            setattr(self.account, name, max(value, getattr(self.account, name)))
        for name in _TIMES:
            setattr(self._earlier, name, max(earlier[name], getattr(self._earlier, name)))
        self._earlier.parts = max(self._earlier.parts, parts, key=lambda seconds: sum(seconds.values()))
        self.account.machine_findings = max(self.account.machine_findings, findings, key=len)

    def begin(
        self,
        step: int,
        load_seconds: float,
        part_seconds: Callable[[], Mapping[str, float]] = dict,
        checkpoint_seconds: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> None:
        """Start training; the two functions are called on every write.

        Args:
            step: The resumed step, or 0.
            load_seconds: Seconds spent reading the checkpoint.
            part_seconds: Returns the training seconds of this start so far by part.
            checkpoint_seconds: Returns the seconds of this start so far that steps waited for copies of the state, and
                that checkpoints were written in the background.
        """
        self._part_seconds = part_seconds
        self._checkpoint_seconds = checkpoint_seconds
        self.account.steps_repeated += max(0, self.account.last_step - step)
        self.account.last_step = step
        self.account.load_seconds += load_seconds

    def step_done(self, step: int) -> None:
        """Record a finished step."""
        if not self._started:
            self._refresh()
            self._first_step_parts = dict(self._part_seconds())
            self._started = True
        self.account.last_step = max(step, self.account.last_step)
        if self.clock() - self._last_write >= _INTERVAL_SECONDS:
            self._write()

    def close(self) -> None:
        """Write the run history at the end of training."""
        self._write()

    def _refresh(self) -> None:
        """Add the time spent by this start so far to that of the earlier ones."""
        account, earlier = self.account, self._earlier
        account.run_seconds = earlier.run_seconds + process_age()
        if not self._started:
            account.start_seconds = account.run_seconds - earlier.run_seconds + earlier.start_seconds
        stall_seconds, save_seconds = self._checkpoint_seconds()
        account.stall_seconds = earlier.stall_seconds + stall_seconds
        account.save_seconds = earlier.save_seconds + save_seconds
        parts = self._part_seconds()
        # The first step counts as start-up time.
        first = self._first_step_parts if self._started else parts
        account.parts = {
            name: earlier.parts.get(name, 0.0) + max(0.0, value - first.get(name, 0.0)) for name, value in parts.items()
        }

    def _write(self) -> None:
        self._last_write = self.clock()
        self._refresh()
        if self.folder is None:
            return
        # Saving checkpoints reports a folder that is not writable.
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{RUN_HISTORY_FILE}{IGNORED_SUFFIX}"
            partial.write_text(json.dumps(self.account.as_json()), "utf-8")
            partial.replace(self.folder / RUN_HISTORY_FILE)


def process_age() -> float:
    """Seconds since this process started, including imports; without `/proc`, since the import of this module."""
    try:
        began = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic() - _IMPORTED
