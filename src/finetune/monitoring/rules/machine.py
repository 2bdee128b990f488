"""Rules on the machine: GPU utilization, CPU and I/O bottlenecks, memory growth, uneven steps and processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.monitoring.rules.finding import Finding, Parameters, Rules
from finetune.monitoring.rules.setup import Setup, sentence
from finetune.monitoring.timing import StepTiming

_MAX_OUTLIER_SHARE = 0.02
_MIN_OUTLIER_FACTOR = 3.0
"""A step is an outlier only if it also takes this many times the median of its epoch."""


@dataclass(frozen=True, slots=True)
class MachineSample:
    """Utilization over a few consecutive steps, in percent.

    Attributes:
        gpu: Share of time with the device busy.
        cpu: CPU time of the process over all its cores.
        waiting: Share of time that steps waited for data.
        memory: Device memory in use.
    """

    gpu: float
    cpu: float
    waiting: float
    memory: float


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """Seconds that a process of the job has spent in training since its start.

    Attributes:
        data: Waiting for data.
        exchange: Waiting for the other processes before steps.
        total: In all parts of the steps.
    """

    data: float
    exchange: float
    total: float

    @property
    def waiting(self) -> float:
        """Share of the time that the process waited for others."""
        return self.exchange / self.total if self.total else 0.0


Check = Callable[[Sequence[MachineSample], Parameters, Setup], tuple[str, str] | None]


def check_utilization(
    samples: Sequence[MachineSample], rules: Rules, step: int, setup: Setup | None = None
) -> list[Finding]:
    """Evaluate the samples of a job with a GPU; each rule reports only after its patience."""
    checks: dict[str, Check] = {
        "CPUBottleneck": _cpu_bottleneck,
        "IOBottleneck": _io_bottleneck,
        "LowGPUUtilization": _low_utilization,
        "BatchSize": _batch_size,
        "GPUMemoryIncrease": _memory_increase,
    }
    findings = []
    for name, check in checks.items():
        parameters = rules.get(name)
        if parameters is None or len(samples) < parameters["patience"]:
            continue
        result = check(samples, parameters, setup or Setup())
        if result is not None:
            findings.append(Finding(name, step, "device", *result))
    return findings


def check_step_times(steps: Sequence[StepTiming], rules: Rules, step: int, setup: Setup | None = None) -> list[Finding]:
    """Check for many steps much slower than others of their epoch, both in total and per input size.

    Steps that compute the features of frozen layers are slower than those that read cached ones, and steps on long
    texts slower than those on short ones; neither is an outlier.
    """
    parameters = rules.get("StepOutlier")
    if parameters is None or len(steps) < 100:
        return []
    segments, seconds, sizes = (np.asarray(column, np.float64) for column in zip(*steps, strict=True))
    multiples = _multiples_of_median(seconds, segments)
    multiples_per_size = _multiples_of_median(seconds / np.maximum(sizes, 1), segments)
    limit = max(multiples.mean() + parameters["stddev"] * multiples.std(), _MIN_OUTLIER_FACTOR)
    outliers = int(((multiples > limit) & (multiples_per_size > _MIN_OUTLIER_FACTOR)).sum())
    if outliers <= max(parameters["n_outliers"], _MAX_OUTLIER_SHARE * len(steps)):
        return []
    observation = (
        f"{outliers} of {len(steps)} steps took over {limit:.0f} times as long as the median step of their epoch"
    )
    return [
        Finding(
            "StepOutlier",
            step,
            "steps",
            observation,
            f"{(setup or Setup()).more_workers()}, so that slow records are prefetched.",
        )
    ]


def check_load_balance(
    processes: Sequence[ProcessTimes], rules: Rules, step: int, setup: Setup | None = None
) -> list[Finding]:
    """Check for a process that the others wait for.

    Args:
        processes: Times of all processes by rank.
        rules: Selected rules.
        step: Optimizer steps done.
        setup: Setup of the job, to tailor the advice.
    """
    parameters = rules.get("LoadBalancing")
    if parameters is None or len(processes) < 2 or step < parameters["patience"]:
        return []
    shares = [process.waiting for process in processes]
    slowest = min(range(len(shares)), key=lambda rank: shares[rank])
    excess = max(shares) - shares[slowest]
    if excess <= parameters["threshold"]:
        return []
    data = processes[slowest].data / processes[slowest].total
    if data > excess / 2:
        advice = f"{(setup or Setup()).more_workers()}: process {slowest} waits for data {data:.0%} of the time."
    else:
        advice = f"compare the utilization of the device of process {slowest} with others; a new instance may help."
    observation = f"other processes wait for process {slowest} for up to {excess:.0%} of the time"
    return [Finding("LoadBalancing", step, f"process {slowest}", observation, advice)]


def _multiples_of_median(values: NDArray[np.float64], segments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each value as a multiple of the median of its stretch."""
    _, segment_index, counts = np.unique(segments, return_inverse=True, return_counts=True)
    ordered = values[np.lexsort((values, segments))]
    medians = ordered[np.cumsum(counts) - counts + counts // 2]
    multiples: NDArray[np.float64] = values / np.maximum(medians[segment_index], 1e-9)
    return multiples


def _cpu_bottleneck(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    del setup
    gpu_limit, cpu_limit = parameters["gpu_threshold"], parameters["cpu_threshold"]
    share = 100 * sum(sample.gpu < gpu_limit and sample.cpu > cpu_limit for sample in samples) / len(samples)
    if share <= parameters["threshold"]:
        return None
    return (
        f"the GPU was idle while the CPU cores were busy {share:.0f}% of the time",
        "choose an instance with more cores.",
    )


def _io_bottleneck(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    gpu_limit, io_limit = parameters["gpu_threshold"], parameters["io_threshold"]
    share = 100 * sum(sample.gpu < gpu_limit and sample.waiting > io_limit for sample in samples) / len(samples)
    if share <= parameters["threshold"]:
        return None
    return (
        f"the GPU was idle while steps waited for data {share:.0f}% of the time",
        "use larger files." if setup.is_piped else "use FastFile mode, or fewer, larger files.",
    )


def _low_utilization(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    values = [sample.gpu for sample in samples[-int(parameters["window"]) :]]
    high, low = _quantile(values, 0.95), _quantile(values, 0.05)
    if high < parameters["threshold_p95"]:
        return f"GPU utilization was at most {high:.0f}%", sentence(
            setup.larger_batches() or "choose a smaller instance"
        )
    if low < parameters["threshold_p5"]:
        return f"GPU utilization fluctuates between {low:.0f}% and {high:.0f}%", sentence(setup.more_workers())
    return None


def _batch_size(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    window = samples[-int(parameters["window"]) :]
    limits = {"cpu": "cpu_threshold_p95", "gpu": "gpu_threshold_p95", "memory": "gpu_memory_threshold_p95"}
    peaks = {name: _quantile([getattr(sample, name) for sample in window], 0.95) for name in limits}
    if any(peaks[name] >= parameters[limit] for name, limit in limits.items()):
        return None
    observation = f"peak use: CPU {peaks['cpu']:.0f}%, GPU {peaks['gpu']:.0f}%, GPU memory {peaks['memory']:.0f}%"
    options = [option for option in (setup.larger_batches(), "choose a smaller instance") if option]
    return observation, sentence(", or ".join(options))


def _memory_increase(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    window = int(parameters["window"])
    first = statistics.fmean(sample.memory for sample in samples[:window])
    last = statistics.fmean(sample.memory for sample in samples[-window:])
    if last - first <= parameters["increase"]:
        return None
    return f"GPU memory in use rose from {first:.0f}% to {last:.0f}%", _memory_advice(setup)


def _memory_advice(setup: Setup) -> str:
    if setup.strategy == "gradual":
        return "no action is needed unless it reaches 100%: layers were unfrozen."
    if setup.max_length is not None and setup.max_length >= 8:
        return f"reduce max_length (max_length={setup.max_length // 2}), so that batch sizes differ less."
    if setup.batch_size > 1:
        return f"halve batch_size (batch_size={setup.batch_size // 2})."
    return "choose an instance with more GPU memory."


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
