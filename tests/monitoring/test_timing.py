"""Every second is attributed to its part, and the clocks do not change the data passing through."""

from __future__ import annotations

import time

import torch

from finetune.monitoring.timing import PARTS, Timing


def test_only_waiting_for_items_is_measured() -> None:
    timing = Timing()
    durations = []

    def sleep(seconds: float) -> None:
        began = time.perf_counter()
        time.sleep(seconds)
        durations.append(time.perf_counter() - began)

    def slow() -> list[int]:
        sleep(0.02)
        return [1, 2]

    items = (item for make in (slow,) for item in make())
    seen = []
    began = time.perf_counter()
    for item in timing.measure_waiting(items):
        seen.append(item)
        sleep(0.05)
    total = time.perf_counter() - began
    waited, *worked = durations
    assert seen == [1, 2]
    assert waited <= timing.seconds["data"] <= total - sum(worked)


def test_all_parts_are_measured_despite_errors() -> None:
    timing = Timing(torch.device("cpu"))
    try:
        with timing.device("forward"):
            raise ValueError("shape")
    except ValueError:
        timing.step_done(1)
    assert set(timing.synchronize()) == set(PARTS)
    assert timing.synchronize()["forward"] >= 0
    assert timing.synchronize()["backward"] == 0


def test_pauses_are_not_part_of_steps() -> None:
    timing = Timing()
    for size in (1, 2, 3):
        timing.step_done(size)
    timing.pause()
    timing.step_done(4)
    timing.step_done(5)
    assert [(step.segment, step.size) for step in timing.steps] == [(0, 2), (0, 3), (1, 5)]
    assert all(step.seconds >= 0 for step in timing.steps)
