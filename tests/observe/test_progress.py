"""Long epochs tell their pace now and then, short ones are silent."""

from __future__ import annotations

import logging

import pytest

from finetune.observe.progress import Pace, duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_tells_step_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    pace = Pace(steps=100, interval=30.0, clock=clock)
    pace.begin(epoch=1, step=20)
    clock.now = 29.9
    assert not pace.due()
    clock.now = 40.0
    assert pace.due()
    with caplog.at_level(logging.INFO):
        pace.tell(step=60, records=1280, loss=0.5)
    assert caplog.messages == ["epoch 2: step 60 of 100, loss 0.5000, 32.0 records/s, 40 s left"]
    assert not pace.due()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3599.7, "1 h 00 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
