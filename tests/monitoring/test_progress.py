"""Long epochs log their speed from time to time; short ones do not."""

from __future__ import annotations

import io
import logging

import pytest

from finetune.entry import _LineFormatter
from finetune.monitoring.progress import ProgressBar, ProgressLogger, choose_progress, format_duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_line_has_step_throughput_and_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    choose_progress = ProgressLogger(steps=100, interval=30.0, clock=clock)
    choose_progress.begin(epoch=1, step=20)
    clock.now = 29.9
    assert not choose_progress.due()
    clock.now = 40.0
    assert choose_progress.due()
    with caplog.at_level(logging.INFO):
        choose_progress.update(step=60, records=1280, loss=0.5)
    assert caplog.messages == ["epoch 2: step 60 of 100, loss 0.5000, 32.0 records/s, 40 s left"]
    assert not choose_progress.due()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.014, "0.01 s"),
        (0.4, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99, "99 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (3599.7, "1 h 00 min"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_a_bar_and_removes_it() -> None:
    clock, terminal = Clock(), Terminal()
    bar = ProgressBar(100, terminal, clock)
    bar.begin(epoch=0, step=0)
    clock.now = 10.0
    assert bar.due()
    bar.update(step=25, records=320, loss=0.5)
    assert "epoch 1 [######..................] 25/100  loss 0.5000  32.0 records/s, 30 s left" in terminal.getvalue()
    assert bar.seconds() == 10.0
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_bar_is_used_only_in_a_terminal() -> None:
    assert isinstance(choose_progress(10, terminal=Terminal()), ProgressBar)
    assert type(choose_progress(10, terminal=io.StringIO())) is ProgressLogger


def test_log_line_replaces_the_bar() -> None:
    for terminal, begin in ((True, "\r\x1b[K"), (False, "")):
        lines = _LineFormatter(clears_line=terminal)
        for level, expected in ((logging.INFO, "text"), (logging.WARNING, "WARNING: text")):
            record = logging.LogRecord("finetune", level, "", 0, "text", None, None)
            assert lines.format(record) == begin + expected


def test_closed_terminal_is_ignored() -> None:
    terminal = io.StringIO()
    bar = ProgressBar(10, terminal)
    terminal.close()
    bar.begin(0, 0)
    bar.update(1, 8, 0.5)
    assert bar.seconds() >= 0
