"""Shows a running job: a progress bar and a table of the epochs in a terminal, the lines of its log elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from finetune.local.log_events import ERROR_PREFIX, Epoch, EpochDuration, Event, FinalMetrics
from finetune.local.process import Listener
from finetune.monitoring.score import METRIC_LABELS, rank_of, score_name
from finetune.runtime.live_progress import Progress as JobProgress

_STOPPING = "Stopping: the step is finished and the state is saved. Press Ctrl-C again to kill the job."
_REPEATED = ("Verdict: ", "The report is in ", "Done.", "first batch trained ", "strength=")
"""Starts of lines that a terminal does not show: repeated by the result or the progress bar, or details."""
_BEST = "*"
_WIDTH = 12


class EpochTable:
    """Lines of a table with a row per epoch, as text; a mark follows each epoch that is better than those before.

    Args:
        best_metric: the metric of validation that determines the best epoch; by default the main one.
    """

    def __init__(self, best_metric: str | None = None) -> None:
        self._requested = best_metric if best_metric in METRIC_LABELS else None
        self._best: tuple[float, float] | None = None
        self._has_header = False

    def lines(self, epoch: Epoch, duration: str = "") -> Iterator[tuple[str, bool]]:
        """Yield the header before the first row, and the row of an epoch, each with whether it is the best so far."""
        columns = self._columns(epoch.metrics)
        if not self._has_header:
            self._has_header = True
            header = "".join(name.rjust(max(_WIDTH, len(name) + 2)) for name in columns)
            yield f"{'epoch':>6}{header}  ", False
        cells = "".join(
            _cell(epoch.metrics.get(key)).rjust(max(_WIDTH, len(name) + 2)) for name, key in columns.items()
        )
        is_best = self._is_best(epoch.metrics)
        mark = _BEST if is_best else " "
        yield f"{epoch.number or 'solved':>6}{cells} {mark}  {duration}".rstrip(), is_best

    def _columns(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return keys of metrics by their names in the header."""
        names = {"train": [score_name(metrics, "train")], "validation": [score_name(metrics, "validation")]}
        others = [key.partition(":")[2] for key in metrics if key.startswith("validation:")]
        names["validation"] += [name for name in others if name in METRIC_LABELS and name not in ("loss", "accuracy")]
        keys = {
            f"{part} {METRIC_LABELS[name]}": f"{part}:{name}"
            for part, scores in names.items()
            for name in dict.fromkeys(("loss", *scores))
        }
        return {name: key for name, key in keys.items() if key in metrics}

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        if "validation:loss" not in metrics:
            return False
        rank = rank_of(metrics, self._requested or _best_metric(metrics))
        if self._best is not None and rank <= self._best:
            return False
        self._best = rank
        return True


def _best_metric(metrics: Mapping[str, float]) -> str:
    """Return the metric of the best epoch, which is in its row if it is none of the usual ones."""
    usual = ("loss", "accuracy", "micro_f1")
    names = [key.partition(":")[2] for key in metrics if key.startswith("validation:")]
    return next((name for name in names if name not in usual), score_name(metrics, "validation"))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


class PlainDisplay:
    """Prints the lines of the log, except the cause of a failure, which the command reports.

    Args:
        console: console to print to.
        quiet: whether to print nothing but warnings.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._failed = False

    def event(self, event: Event) -> None:
        """Print a line of the log."""
        line = log_line(event)
        self._failed = self._failed or line.startswith(ERROR_PREFIX)
        if not self._failed and (not self._quiet or line.startswith("WARNING: ")):
            self._console.print(line)

    def progress(self, progress: JobProgress) -> None:
        """Do nothing: the log has a line of progress every 30 seconds."""

    def stopping(self) -> None:
        """Print that the job stops."""
        self._console.print(_STOPPING)


class TerminalDisplay:
    """Shows a progress bar below the lines of the log, and epochs as a table.

    Args:
        console: console of the terminal.
        bar: the progress bar.
        table: table of the epochs.
        quiet: whether to print only warnings and epochs.
    """

    def __init__(self, console: Console, bar: Progress, table: EpochTable, *, quiet: bool = False) -> None:
        self._console = console
        self._bar = bar
        self._table = table
        self._quiet = quiet
        self._task: TaskID = bar.add_task("starting", total=None, speed="", loss="")
        self._stage = ""
        self._epoch: Epoch | None = None
        self._failed = False

    def event(self, event: Event) -> None:
        """Print a line of the log, or a row of the table."""
        if isinstance(event, EpochDuration) and self._epoch is not None:
            self._print_epoch(event.duration)
            return
        self._print_epoch()
        if isinstance(event, Epoch) and event.metrics:
            self._epoch = event
            if not event.number:
                self._print_epoch()
        elif isinstance(event, FinalMetrics):
            self._show_stage("exporting")
        else:
            self._print_line(log_line(event))

    def progress(self, progress: JobProgress) -> None:
        """Update the bar; stages within epochs are part of them."""
        if progress.unit == "records" and self._stage.startswith("epoch"):
            return
        speed = "" if progress.records_per_second is None else f"{progress.records_per_second:.1f} records/s"
        loss = "" if progress.loss is None else f"loss {progress.loss:.4f}"
        if progress.stage.partition(" ")[0] != self._stage.partition(" ")[0]:
            self._bar.reset(self._task)
        self._stage = progress.stage
        self._bar.update(
            self._task,
            description=progress.stage,
            completed=progress.done,
            total=progress.total or None,
            speed=speed,
            loss=loss,
        )

    def stopping(self) -> None:
        """Print that the job stops."""
        self._console.print(_STOPPING, style="yellow")
        self._show_stage("stopping")

    def _show_stage(self, stage: str) -> None:
        self._bar.update(self._task, description=stage, speed="", loss="")

    def _print_epoch(self, duration: str = "") -> None:
        if self._epoch is None:
            return
        for line, is_best in self._table.lines(self._epoch, duration):
            self._console.print(Text(line, style="bold green" if is_best else ""))
        self._epoch = None

    def _print_line(self, line: str) -> None:
        self._failed = self._failed or line.startswith(ERROR_PREFIX)
        if self._failed or line.startswith(_REPEATED):
            return
        is_warning = line.startswith("WARNING: ")
        if is_warning or not self._quiet:
            self._console.print(Text(line, style="yellow" if is_warning else "dim"))


def log_line(event: Event) -> str:
    """Return the line of the log that an event was parsed from."""
    if isinstance(event, EpochDuration):
        return f"epoch {event.number} took {event.duration}"
    if isinstance(event, Epoch):
        return f"{f'epoch={event.number}' if event.number else 'solved'}; {_metrics(event.metrics)}"
    if isinstance(event, FinalMetrics):
        return f"final; {_metrics(event.metrics)}"
    return event.line


def _metrics(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.6f};" for name, value in metrics.items())


@contextmanager
def display(console: Console, best_metric: str | None = None, *, quiet: bool = False) -> Iterator[Listener]:
    """Show a job while the block runs: with a progress bar in a terminal, and as plain lines elsewhere."""
    if not console.is_terminal:
        yield PlainDisplay(console, quiet=quiet)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
        yield TerminalDisplay(console, bar, EpochTable(best_metric), quiet=quiet)
