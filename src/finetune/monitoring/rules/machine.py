"""Rules on the machine: GPU utilization, CPU and I/O bottlenecks, memory growth and uneven steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.monitoring.rules.finding import Finding, Parameters, Rules
from finetune.monitoring.rules.setup import Setup, sentence
from finetune.monitoring.timing import StepTiming

_UNEVEN_SHARE = 0.02
_LONG = 3.0
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


Check = Callable[[Sequence[MachineSample], Parameters, Setup], tuple[str, str] | None]


def judge_machine(
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
    found = []
    for name, check in checks.items():
        parameters = rules.get(name)
        if parameters is None or len(samples) < parameters["patience"]:
            continue
        said = check(samples, parameters, setup or Setup())
        if said is not None:
            found.append(Finding(name, step, "device", *said))
    return found


def judge_steps(steps: Sequence[StepTiming], rules: Rules, step: int, setup: Setup | None = None) -> list[Finding]:
    """Check for many steps much slower than others of their epoch, both in total and per input size.

    Steps that compute the features of frozen layers are slower than those that read cached ones, and steps on long
    texts slower than those on short ones; neither is an outlier.
    """
    parameters = rules.get("StepOutlier")
    if parameters is None or len(steps) < 100:
        return []
    stretches, seconds, sizes = (np.asarray(column, np.float64) for column in zip(*steps, strict=True))
    times, paces = (_times_the_middle(values, stretches) for values in (seconds, seconds / np.maximum(sizes, 1)))
    limit = max(times.mean() + parameters["stddev"] * times.std(), _LONG)
    outliers = int(((times > limit) & (paces > _LONG)).sum())
    if outliers <= max(parameters["n_outliers"], _UNEVEN_SHARE * len(steps)):
        return []
    seen = f"{outliers} of {len(steps)} steps took over {limit:.0f} times as long as the middle one of their epoch"
    return [
        Finding(
            "StepOutlier", step, "steps", seen, f"{(setup or Setup()).more_workers()}: slow records are read ahead."
        )
    ]


def _times_the_middle(values: NDArray[np.float64], stretches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each value as a multiple of the median of its stretch."""
    _, member, counts = np.unique(stretches, return_inverse=True, return_counts=True)
    in_order = values[np.lexsort((values, stretches))]
    middles = in_order[np.cumsum(counts) - counts + counts // 2]
    times: NDArray[np.float64] = values / np.maximum(middles[member], 1e-9)
    return times


def _cpu_bottleneck(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    del setup
    stuck = [one for one in samples if one.gpu < parameters["gpu_threshold"] and one.cpu > parameters["cpu_threshold"]]
    share = 100 * len(stuck) / len(samples)
    if share <= parameters["threshold"]:
        return None
    return (
        f"in {share:.0f}% of the time the GPU was idle and the cores were busy",
        "choose an instance with more cores.",
    )


def _io_bottleneck(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    stuck = [
        one for one in samples if one.gpu < parameters["gpu_threshold"] and one.waiting > parameters["io_threshold"]
    ]
    share = 100 * len(stuck) / len(samples)
    if share <= parameters["threshold"]:
        return None
    return (
        f"in {share:.0f}% of the time the GPU was idle and steps waited for data",
        "use larger files." if setup.piped else "use FastFile mode, or fewer, larger files.",
    )


def _low_utilization(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    values = [one.gpu for one in samples[-int(parameters["window"]) :]]
    high, low = _quantile(values, 0.95), _quantile(values, 0.05)
    if high < parameters["threshold_p95"]:
        return f"the GPU worked {high:.0f}% of the time at best", sentence(
            setup.larger_batches() or "choose a smaller instance"
        )
    if low < parameters["threshold_p5"]:
        return f"the GPU's work goes up and down between {low:.0f}% and {high:.0f}%", sentence(setup.more_workers())
    return None


def _batch_size(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    window = samples[-int(parameters["window"]) :]
    limits = {"cpu": "cpu_threshold_p95", "gpu": "gpu_threshold_p95", "memory": "gpu_memory_threshold_p95"}
    highs = {name: _quantile([getattr(one, name) for one in window], 0.95) for name in limits}
    if any(highs[name] >= parameters[limit] for name, limit in limits.items()):
        return None
    seen = f"cores {highs['cpu']:.0f}%, GPU {highs['gpu']:.0f}% and its memory {highs['memory']:.0f}% busy at best"
    ways = [way for way in (setup.larger_batches(), "choose a smaller instance") if way]
    return seen, sentence(", or ".join(ways))


def _memory_increase(samples: Sequence[MachineSample], parameters: Parameters, setup: Setup) -> tuple[str, str] | None:
    window = int(parameters["window"])
    first = statistics.fmean(one.memory for one in samples[:window])
    last = statistics.fmean(one.memory for one in samples[-window:])
    if last - first <= parameters["increase"]:
        return None
    return f"memory in use rose from {first:.0f}% to {last:.0f}%", _against_growth(setup)


def _against_growth(setup: Setup) -> str:
    if setup.strategy == "gradual":
        return "nothing, unless it reaches 100%: more layers were unfrozen."
    if setup.max_length is not None and setup.max_length >= 8:
        return f"set a smaller max_length (max_length={setup.max_length // 2}), so that batches differ less."
    if setup.batch_size > 1:
        return f"halve batch_size (batch_size={setup.batch_size // 2})."
    return "choose an instance with more memory."


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
