"""Rules about the machine: samples that trigger each one, and healthy ones that do not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.machine import (
    MachineSample,
    ProcessTimes,
    check_load_balance,
    check_step_times,
    check_utilization,
)
from finetune.monitoring.timing import StepTiming

HEALTHY = MachineSample(gpu=92, cpu=40, waiting=2, memory=75)


def samples(of: MachineSample, count: int = 1200, seed: int = 0) -> list[MachineSample]:
    draw = random.Random(seed)
    return [
        replace(of, gpu=max(0, of.gpu + draw.uniform(-5, 5)), cpu=of.cpu + draw.uniform(-3, 3)) for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_busy_gpu_has_no_findings(seed: int) -> None:
    assert check_utilization(samples(HEALTHY, seed=seed), DEFAULTS, 1) == []


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (MachineSample(gpu=2, cpu=97, waiting=10, memory=80), {"CPUBottleneck", "LowGPUUtilization"}),
        (MachineSample(gpu=2, cpu=10, waiting=90, memory=80), {"IOBottleneck", "LowGPUUtilization"}),
        (MachineSample(gpu=40, cpu=50, waiting=1, memory=90), {"LowGPUUtilization"}),
        (MachineSample(gpu=40, cpu=50, waiting=1, memory=20), {"LowGPUUtilization", "BatchSize"}),
    ],
)
def test_idle_gpu_is_reported_with_its_cause(bad: MachineSample, expected: set[str]) -> None:
    findings = check_utilization(samples(bad), DEFAULTS, 1)
    assert {finding.rule for finding in findings} == expected
    assert check_utilization(samples(bad, 500), DEFAULTS, 1) == []


def test_fluctuating_utilization_is_reported() -> None:
    uneven = samples(HEALTHY)
    uneven[::5] = [replace(HEALTHY, gpu=0.0)] * len(uneven[::5])
    (finding,) = check_utilization(uneven, DEFAULTS, 1)
    assert finding.advice == "choose an instance with more cores."


def test_growing_memory_is_reported() -> None:
    growing = [replace(HEALTHY, memory=50 + 30 * at / 1200) for at in range(1200)]
    assert [finding.rule for finding in check_utilization(growing, DEFAULTS, 1)] == ["GPUMemoryIncrease"]


def test_process_that_others_wait_for_is_reported_with_its_cause() -> None:
    even = [ProcessTimes(data=1, exchange=5 + rank, total=100) for rank in range(4)]
    assert check_load_balance(even, DEFAULTS, 5000) == []
    assert check_load_balance([ProcessTimes(1, 90, 100)], DEFAULTS, 5000) == []
    slow = [*even[:2], ProcessTimes(data=2, exchange=1, total=100), ProcessTimes(data=1, exchange=40, total=100)]
    (finding,) = check_load_balance(slow, DEFAULTS, 5000)
    assert finding.observation == "other processes wait for process 2 for up to 39% of the time"
    assert "compare the utilization" in finding.advice
    slow[2] = ProcessTimes(data=38, exchange=1, total=100)
    (finding,) = check_load_balance(slow, DEFAULTS, 5000)
    assert "process 2 waits for data 38% of the time" in finding.advice
    assert check_load_balance(slow, DEFAULTS, 500) == []


def steps(seconds: Sequence[float], segment: int = 0, size: int = 8) -> list[StepTiming]:
    return [StepTiming(segment, duration, size) for duration in seconds]


def test_step_outliers_are_reported_but_not_a_few() -> None:
    even = [0.1] * 500
    assert check_step_times(steps(even + [1.0] * 9), DEFAULTS, 1) == []
    (finding,) = check_step_times(steps(even + [5.0] * 15), DEFAULTS, 1)
    assert finding.rule == "StepOutlier"
    assert "15 of 515 steps" in finding.observation


def test_steps_that_compute_features_are_not_outliers() -> None:
    epochs = [steps([0.3] * 13, 0), *(steps([0.001] * 13, epoch) for epoch in range(1, 20))]
    assert check_step_times([step for epoch in epochs for step in epoch], DEFAULTS, 1) == []


def test_steps_on_long_texts_are_not_outliers() -> None:
    short, long = steps([0.1] * 500, size=256), steps([1.6] * 15, size=4096)
    assert check_step_times(short + long, DEFAULTS, 1) == []
    slow = steps([5.0] * 15, size=300)
    (finding,) = check_step_times(short + slow, DEFAULTS, 1)
    assert "15 of 515 steps" in finding.observation
