"""Every second is attributed to its part, and the clocks do not change the data passing through."""

from __future__ import annotations

import time

import torch

from finetune.monitoring.timing import PARTS, Timing


def test_waiting_for_items_is_counted_and_work_on_them_is_not() -> None:
    timing = Timing()
    slept = []

    def sleep(seconds: float) -> None:
        began = time.perf_counter()
        time.sleep(seconds)
        slept.append(time.perf_counter() - began)

    def slow() -> list[int]:
        sleep(0.02)
        return [1, 2]

    items = (item for make in (slow,) for item in make())
    seen = []
    began = time.perf_counter()
    for item in timing.waited(items):
        seen.append(item)
        sleep(0.05)
    whole = time.perf_counter() - began
    waited, *worked = slept
    assert seen == [1, 2]
    assert waited <= timing.seconds["data"] <= whole - sum(worked)


def test_parts_are_complete_and_nested_errors_pass_through() -> None:
    timing = Timing(torch.device("cpu"))
    try:
        with timing.device("forward"):
            raise ValueError("shape")
    except ValueError:
        timing.step_done(1)
    assert set(timing.settle()) == set(PARTS)
    assert timing.settle()["forward"] >= 0
    assert timing.settle()["backward"] == 0


def test_steps_are_measured_from_one_to_the_next_but_not_over_a_pause() -> None:
    timing = Timing()
    for size in (1, 2, 3):
        timing.step_done(size)
    timing.pause()
    timing.step_done(4)
    timing.step_done(5)
    assert [(one.stretch, one.size) for one in timing.steps] == [(0, 2), (0, 3), (1, 5)]
    assert all(one.seconds >= 0 for one in timing.steps)
