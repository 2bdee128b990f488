"""Progress is a bar in a terminal, and lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from finetune.cli import terminal
from finetune.cli.terminal import progress


def test_terminal_shows_a_bar_and_removes_it() -> None:
    file = io.StringIO()
    with progress(Console(file=file, force_terminal=True, width=80), "Predicting", 3) as count:
        count()
    assert "Predicting" in file.getvalue()
    assert "1/3" in file.getvalue() or "0/3" in file.getvalue()
    assert "\x1b[2K" in file.getvalue()


def test_other_outputs_get_a_line_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=False)
    with progress(console, "Predicting", 2) as count:
        count()
    assert file.getvalue() == ""
    monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress(console, "Predicting", 2) as count:
        count()
    with progress(console, "Predicting", None) as count:
        count()
    assert file.getvalue().splitlines() == ["Predicting: 1 of 2", "Predicting: 1"]
