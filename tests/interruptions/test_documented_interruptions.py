"""docs/interruptions.md matches the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from finetune.config.descriptions import all_hyperparameters
from finetune.job.resume import CHANGEABLE
from finetune.training.saved_state.run_history import RunHistory

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "interruptions.md").read_text("utf-8")


def rows_after(words: str) -> list[str]:
    """First cells of the first table after `words`."""
    table = re.search(r"\n\|---.*\n((?:\|.*\n)+)", PAGE[PAGE.index(words) :])
    assert table is not None
    return [row.split("|")[1].strip().strip("`") for row in table[1].splitlines()]


def test_documented_changeable_hyperparameters() -> None:
    assert rows_after("These may change:") == list(CHANGEABLE)
    assert set(CHANGEABLE) <= set(all_hyperparameters())


def test_documented_run_history_entries() -> None:
    assert rows_after("`metrics.json` has") == [field.name for field in fields(RunHistory)]


def test_documented_default_intervals() -> None:
    hyperparameters = all_hyperparameters()
    for name in ("checkpoint_interval_seconds", "checkpoint_keep"):
        assert f"`{name}` ({float(hyperparameters[name].default):g})" in PAGE
