"""Waiting for data is reported where it matters, with the setting to change."""

from __future__ import annotations

import re

import pytest

from finetune.monitoring.waiting import DataWait, waiting_line


def test_waiting_line_has_share_seconds_threads_and_cores() -> None:
    line = waiting_line(2, DataWait(seconds=26.0, epoch_seconds=40.0, threads=1, cores=8, workers_set=True))
    assert line is not None
    assert re.search(r"^epoch 3: .* 65% .*\(26\.0 of 40\.0 s\), with 1 thread on 8 cores: increase workers", line)


@pytest.mark.parametrize(
    ("threads", "workers_set", "advice"),
    [
        (0, True, "increase workers"),
        (3, False, "added automatically"),
        (4, False, "more cores"),
        (4, True, "more cores"),
    ],
)
def test_advice_depends_on_threads_and_cores(threads: int, workers_set: bool, advice: str) -> None:
    assert advice in (waiting_line(0, DataWait(20.0, 40.0, threads, 4, workers_set)) or "")


@pytest.mark.parametrize(("seconds", "epoch_seconds"), [(4.0, 40.0), (0.9, 1.0), (0.0, 0.0)])
def test_short_waiting_is_not_reported(seconds: float, epoch_seconds: float) -> None:
    assert waiting_line(0, DataWait(seconds, epoch_seconds, 1, 8, workers_set=True)) is None
