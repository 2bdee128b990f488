"""A running job in a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from finetune.cli.training_display import EpochTable, display
from finetune.local.log_events import Epoch, parse_line
from finetune.runtime.live_progress import Progress

LINES = (
    "Plan",
    "epoch=1; train:loss=1.100000; train:accuracy=0.300000; validation:loss=1.000000; validation:accuracy=0.600000;",
    "epoch 1 took 3.1 s",
    "WARNING: rule Overfit",
    "epoch=2; train:loss=0.900000; train:accuracy=0.400000; validation:loss=1.200000; validation:accuracy=0.500000;",
    "epoch 2 took 3.2 s",
    "final; validation:accuracy=0.600000;",
    "ERROR: Internal error",
    "Traceback (most recent call last)",
)


def make_console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=120, color_system=None, soft_wrap=True), file


def show(*, terminal: bool, quiet: bool = False) -> str:
    console, file = make_console(terminal=terminal)
    with display(console, quiet=quiet) as listener:
        for line in LINES:
            listener.event(parse_line(line))
        listener.stopping()
    return file.getvalue()


def test_the_log_is_unchanged_outside_of_a_terminal() -> None:
    lines = show(terminal=False).splitlines()
    assert lines[:-1] == list(LINES[:-2])
    assert lines[-1].startswith("Stopping: ")
    assert show(terminal=False, quiet=True).splitlines()[:-1] == ["WARNING: rule Overfit"]


def test_a_terminal_shows_a_bar() -> None:
    console, file = make_console(terminal=True)
    with display(console) as listener:
        listener.progress(Progress("epoch 1/2", 5, 20, "steps", 123.4, 0.5))
        listener.progress(Progress("features of the frozen layers", 5, 20))  # a part of the epoch
    last = file.getvalue().splitlines()[-3]
    assert "epoch 1/2 " in last
    assert "loss 0.5000 123.4 records/s" in last


def test_a_terminal_shows_a_table() -> None:
    text = show(terminal=True)
    rows = [line.strip() for line in text.splitlines()]
    header = next(line for line in rows if "train loss" in line)
    assert header.split("  ")[0].endswith("epoch")
    assert any(line.endswith("0.6000 *  3.1 s") for line in rows)
    assert any(line.endswith("0.5000    3.2 s") for line in rows)
    assert "validation:loss=" not in text
    assert "Traceback" not in text
    assert "Plan" not in show(terminal=True, quiet=True)


@pytest.mark.parametrize(
    ("requested", "best"),
    [(None, [True, False, True]), ("loss", [True, True, False]), ("unknown", [True, False, True])],
)
def test_the_best_epoch_is_marked(requested: str | None, best: list[bool]) -> None:
    table = EpochTable(requested)
    rows = [
        {"train:loss": 1.0, "train:accuracy": 0.5, "validation:loss": loss, "validation:accuracy": accuracy}
        for loss, accuracy in ((1.0, 0.6), (0.8, 0.5), (0.9, 0.7))
    ]
    assert [list(table.lines(Epoch(number, row)))[-1][1] for number, row in enumerate(rows, 1)] == best


def test_the_metric_of_the_best_epoch_has_a_column() -> None:
    row = {"train:loss": 1.0, "train:accuracy": 0.5, "validation:loss": 1.0, "validation:accuracy": 0.5}
    (header, _), (line, _) = EpochTable().lines(Epoch(0, row | {"validation:macro_f1": 0.25}))
    assert "validation macro F1" in header
    assert "0.2500 *" in line
    assert line.startswith("solved")
