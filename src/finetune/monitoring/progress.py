"""Progress of long epochs: throughput and estimated remaining time."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from finetune.runtime.live_progress import Progress, ProgressWriter

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
_REDRAW_SECONDS = 0.5
_BAR_WIDTH = 24
_CLEAR = "\x1b[K"


class ProgressLogger:
    """Logs the progress of an epoch at intervals; epochs shorter than the interval log nothing.

    Args:
        steps: Steps per epoch.
        interval: Seconds between two lines.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self, steps: int, interval: float = INTERVAL_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps = steps
        self._interval = interval
        self._clock = clock
        self._epoch = 0
        self._first_step = 0
        self._start = self._last_update = clock()

    def begin(self, epoch: int, step: int) -> None:
        """Start an epoch, or resume it at `step`."""
        self._epoch, self._first_step = epoch, step
        self._start = self._last_update = self._clock()

    def due(self) -> bool:
        """Whether a line is due."""
        return self._clock() - self._last_update >= self._interval

    def update(self, step: int, records: int, loss: float) -> None:
        """Log a line.

        Args:
            step: Steps of this epoch done so far.
            records: Records processed since the epoch started or was resumed.
            loss: Mean training loss of the epoch so far.
        """
        self._last_update = self._clock()
        seconds = self._last_update - self._start
        remaining = seconds / max(1, step - self._first_step) * (self._steps - step)
        is_known = self._steps >= step
        logger.info(
            "epoch %d: step %d of %s, loss %.4f, %.1f records/s, %s",
            self._epoch + 1,
            step,
            self._steps if is_known else "unknown",
            loss,
            records / max(seconds, 1e-9),
            f"{format_duration(remaining)} left" if is_known else "remaining time unknown",
        )

    def seconds(self) -> float:
        """Return the seconds since the epoch started or was resumed."""
        return self._clock() - self._start


class ProgressBar(ProgressLogger):
    """Progress bar for a terminal, removed at the end of the epoch.

    Args:
        steps: Steps per epoch.
        terminal: Output stream of the bar.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, steps: int, terminal: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(steps, _REDRAW_SECONDS, clock)
        self._terminal = terminal

    def update(self, step: int, records: int, loss: float) -> None:
        """Draw the bar; see `ProgressLogger.update`."""
        self._last_update = self._clock()
        seconds = self._last_update - self._start
        remaining = seconds / max(1, step - self._first_step) * (self._steps - step)
        filled = round(_BAR_WIDTH * step / self._steps)
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        records_per_second = records / max(seconds, 1e-9)
        text = (
            f"epoch {self._epoch + 1} [{bar}] {step}/{self._steps}  loss {loss:.4f}  {records_per_second:.1f} records/s"
        )
        self._draw(f"{text}, {format_duration(remaining)} left")

    def seconds(self) -> float:
        """Remove the bar and return the seconds since the epoch started or was resumed."""
        self._draw("")
        return super().seconds()

    def _draw(self, text: str) -> None:
        # A closed terminal must not end the training.
        with suppress(OSError, ValueError):
            self._terminal.write(f"\r{_CLEAR}{text}")
            self._terminal.flush()


class ProgressReport(ProgressLogger):
    """Progress over all epochs for the process that started this one, besides the lines of the log.

    Args:
        steps: Steps per epoch.
        epochs: Number of epochs.
        writer: Writes the progress.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self, steps: int, epochs: int, writer: ProgressWriter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(steps, clock=clock)
        self._epochs = epochs
        self._writer = writer

    def due(self) -> bool:
        """Whether a report or a line is due."""
        return self._writer.due() or super().due()

    def update(self, step: int, records: int, loss: float) -> None:
        """Write a report, and log a line if it is due; see `ProgressLogger.update`."""
        speed = records / max(self._clock() - self._start, 1e-9)
        total = self._epochs * self._steps if self._steps >= step else 0
        done = self._epoch * self._steps + step
        self._writer.write(Progress(f"epoch {self._epoch + 1}/{self._epochs}", done, total, "steps", speed, loss))
        if super().due():
            super().update(step, records, loss)


def choose_progress(steps: int, epochs: int = 1, terminal: TextIO | None = None) -> ProgressLogger:
    """Return the reporter to another process if there is one, a progress bar in a terminal, or a logger of lines."""
    writer = ProgressWriter.from_environment()
    if writer.is_enabled:
        return ProgressReport(steps, epochs, writer)
    terminal = sys.stdout if terminal is None else terminal
    return ProgressBar(steps, terminal) if terminal.isatty() else ProgressLogger(steps)


def format_duration(seconds: float) -> str:
    """Format seconds: `0.02 s`, `3.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.{1 if seconds >= 0.095 else 2}f} s"
    rounded = round(seconds)
    if rounded < 100:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
