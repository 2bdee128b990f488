"""Rules about the machine: samples that trigger each one, and healthy ones that do not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.machine import MachineSample, judge_machine, judge_steps
from finetune.monitoring.timing import StepTiming

HEALTHY = MachineSample(gpu=92, cpu=40, waiting=2, memory=75)


def samples(of: MachineSample, count: int = 1200, seed: int = 0) -> list[MachineSample]:
    draw = random.Random(seed)
    return [
        replace(of, gpu=max(0, of.gpu + draw.uniform(-5, 5)), cpu=of.cpu + draw.uniform(-3, 3)) for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_a_busy_gpu_gives_no_alarm(seed: int) -> None:
    assert judge_machine(samples(HEALTHY, seed=seed), DEFAULTS, 1) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (MachineSample(gpu=2, cpu=97, waiting=10, memory=80), {"CPUBottleneck", "LowGPUUtilization"}),
        (MachineSample(gpu=2, cpu=10, waiting=90, memory=80), {"IOBottleneck", "LowGPUUtilization"}),
        (MachineSample(gpu=40, cpu=50, waiting=1, memory=90), {"LowGPUUtilization"}),
        (MachineSample(gpu=40, cpu=50, waiting=1, memory=20), {"LowGPUUtilization", "BatchSize"}),
    ],
)
def test_an_idle_gpu_is_told_with_its_cause(bad: MachineSample, told: set[str]) -> None:
    found = judge_machine(samples(bad), DEFAULTS, 1)
    assert {one.rule for one in found} == told
    assert judge_machine(samples(bad, 500), DEFAULTS, 1) == []


def test_work_that_goes_up_and_down_is_told() -> None:
    uneven = samples(HEALTHY)
    uneven[::5] = [replace(HEALTHY, gpu=0.0)] * len(uneven[::5])
    (found,) = judge_machine(uneven, DEFAULTS, 1)
    assert found.advice == "choose an instance with more cores."


def test_memory_that_grows_is_told() -> None:
    growing = [replace(HEALTHY, memory=50 + 30 * at / 1200) for at in range(1200)]
    assert [one.rule for one in judge_machine(growing, DEFAULTS, 1)] == ["GPUMemoryIncrease"]


def steps(seconds: Sequence[float], stretch: int = 0, size: int = 8) -> list[StepTiming]:
    return [StepTiming(stretch, one, size) for one in seconds]


def test_uneven_steps_are_told_and_a_few_slow_ones_are_not() -> None:
    even = [0.1] * 500
    assert judge_steps(steps(even + [1.0] * 9), DEFAULTS, 1) == []
    (found,) = judge_steps(steps(even + [5.0] * 15), DEFAULTS, 1)
    assert found.rule == "StepOutlier"
    assert "15 of 515 steps" in found.seen


def test_steps_that_compute_features_are_no_outliers_beside_those_that_read_them() -> None:
    epochs = [steps([0.3] * 13, 0), *(steps([0.001] * 13, epoch) for epoch in range(1, 20))]
    assert judge_steps([one for epoch in epochs for one in epoch], DEFAULTS, 1) == []


def test_steps_on_long_texts_are_no_outliers_beside_those_on_short_ones() -> None:
    short, long = steps([0.1] * 500, size=256), steps([1.6] * 15, size=4096)
    assert judge_steps(short + long, DEFAULTS, 1) == []
    slow = steps([5.0] * 15, size=300)
    (found,) = judge_steps(short + slow, DEFAULTS, 1)
    assert "15 of 515 steps" in found.seen
