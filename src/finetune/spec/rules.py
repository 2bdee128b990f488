"""Which rules may watch a job, with which parameters? Names and defaults are those of the service's built-in rules.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html and the profiler's page beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.errors import did_you_mean

Parameters = Mapping[str, float]

DEFAULTS: Mapping[str, Parameters] = {
    "VanishingGradient": {"threshold": 1e-7},
    "ExplodingTensor": {"only_nan": 0},
    "PoorWeightInitialization": {"threshold": 10.0, "distribution_range": 0.001, "patience": 5, "steps": 10},
    "LossNotDecreasing": {"num_steps": 10, "diff_percent": 0.0},
    "Overfit": {"start_step": 0, "patience": 1, "ratio_threshold": 0.1},
    "Overtraining": {"patience_train": 5, "patience_validation": 10, "delta": 0.1},
    "DeadRelu": {"threshold_inactivity": 1.0, "threshold_layer": 50.0},
    "SaturatedActivation": {
        "threshold_tanh_min": -9.4999,
        "threshold_tanh_max": 9.4999,
        "threshold_sigmoid_min": -23.0,
        "threshold_sigmoid_max": 16.99999,
        "threshold_inactivity": 1.0,
        "threshold_layer": 50.0,
    },
    "WeightUpdateRatio": {"large_threshold": 10.0, "small_threshold": 1e-8, "epsilon": 1e-9},
    "AllZero": {"threshold": 100.0},
    "UnchangedTensor": {"num_steps": 3, "rtol": 1e-5, "atol": 1e-8},
    "ClassImbalance": {"threshold_imbalance": 10.0, "threshold_misprediction": 0.7, "samples": 500},
    "CPUBottleneck": {"threshold": 50.0, "gpu_threshold": 10.0, "cpu_threshold": 90.0, "patience": 1000},
    "GPUMemoryIncrease": {"increase": 5.0, "patience": 1000, "window": 10},
    "LowGPUUtilization": {"threshold_p95": 70.0, "threshold_p5": 10.0, "window": 500, "patience": 1000},
    "IOBottleneck": {"threshold": 50.0, "gpu_threshold": 10.0, "io_threshold": 50.0, "patience": 1000},
    "StepOutlier": {"stddev": 3.0, "n_outliers": 10},
    "BatchSize": {
        "cpu_threshold_p95": 70.0,
        "gpu_threshold_p95": 70.0,
        "gpu_memory_threshold_p95": 70.0,
        "patience": 1000,
        "window": 500,
    },
}


def rules_of(text: str | None) -> dict[str, Parameters]:
    """Rules by name, with their parameters, from `all`, `None`, or `Name:parameter=value,Name`.

    Raises:
        ValueError: a rule or a parameter is unknown, or a value is no number; the message says what is allowed.
    """
    if text is None:
        return {}
    if text.strip().lower() == "all":
        return dict(DEFAULTS)
    chosen: dict[str, Parameters] = {}
    for entry in filter(None, (part.strip() for part in text.strip("[] ").split(","))):
        name, *settings = entry.split(":")
        known = {one.lower().replace("_", ""): one for one in DEFAULTS}
        rule = known.get(name.strip().lower().replace("_", ""))
        if rule is None:
            raise ValueError(f"there is no rule {name!r}{did_you_mean(name, list(DEFAULTS))}")
        chosen[rule] = {**DEFAULTS[rule], **dict(_setting(rule, setting) for setting in settings)}
    return chosen


def _setting(rule: str, text: str) -> tuple[str, float]:
    name, _, value = (part.strip() for part in text.partition("="))
    if name not in DEFAULTS[rule]:
        raise ValueError(f"{rule} has no parameter {name!r}: it has {', '.join(DEFAULTS[rule])}")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"{rule}:{name} is {value!r}, expected a number") from None
