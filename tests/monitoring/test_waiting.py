"""Waiting for data is reported where it matters, with the setting to change."""

from __future__ import annotations

import pytest

from finetune.monitoring.waiting import DataWait, waiting_line


def test_share_seconds_threads_and_cores_are_told() -> None:
    line = waiting_line(2, DataWait(seconds=26.0, whole=40.0, threads=1, cores=8, asked=True))
    assert line == (
        "epoch 3: the device waited for data in 65% of the time (26.0 of 40.0 s), with 1 thread on 8 cores:"
        " set workers higher, or leave it out to have as many as it takes."
    )


@pytest.mark.parametrize(
    ("threads", "asked", "advice"),
    [
        (0, True, "set workers higher"),
        (3, False, "another one begins"),
        (4, False, "more cores"),
        (4, True, "more cores"),
    ],
)
def test_the_advice_fits(threads: int, asked: bool, advice: str) -> None:
    assert advice in (waiting_line(0, DataWait(20.0, 40.0, threads, 4, asked)) or "")


@pytest.mark.parametrize(("seconds", "whole"), [(4.0, 40.0), (0.9, 1.0), (0.0, 0.0)])
def test_little_is_not_worth_a_line(seconds: float, whole: float) -> None:
    assert waiting_line(0, DataWait(seconds, whole, 1, 8, asked=True)) is None
