"""Rules and their parameters, mostly with the names and defaults of SageMaker Debugger's built-in rules.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html and the profiler's page next to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from finetune.errors import did_you_mean

Parameters = Mapping[str, float]

DEFAULTS: Mapping[str, Parameters] = {
    "LearningRate": {"threshold": 2.0},
    "VanishingGradient": {"threshold": 1e-7},
    "ExplodingTensor": {"only_nan": 0},
    "PoorWeightInitialization": {"threshold": 10.0},
    "LossNotDecreasing": {"num_steps": 10, "diff_percent": 0.0},
    "Overfit": {"start_step": 0, "patience": 1, "ratio_threshold": 0.1},
    "ExplodingLoss": {"threshold": 5.0},
    "ChanceLevel": {"significance": 0.05},
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
    "ClassImbalance": {"threshold_imbalance": 10.0, "threshold_misprediction": 0.7, "samples": 0},
    "CPUBottleneck": {"threshold": 50.0, "gpu_threshold": 10.0, "cpu_threshold": 90.0, "patience": 1000},
    "GPUMemoryIncrease": {"increase": 5.0, "patience": 1000, "window": 10},
    "LowGPUUtilization": {"threshold_p95": 70.0, "threshold_p5": 10.0, "window": 500, "patience": 1000},
    "IOBottleneck": {"threshold": 50.0, "gpu_threshold": 10.0, "io_threshold": 50.0, "patience": 1000},
    "LoadBalancing": {"threshold": 0.2, "patience": 1000},
    "StepOutlier": {"stddev": 3.0, "n_outliers": 10},
    "BatchSize": {
        "cpu_threshold_p95": 70.0,
        "gpu_threshold_p95": 70.0,
        "gpu_memory_threshold_p95": 70.0,
        "patience": 1000,
        "window": 500,
    },
}

_SELECTS_TENSORS = "selects saved tensors, but each rule uses fixed tensors"
UNSUPPORTED_PARAMETERS: Mapping[str, str] = {
    **dict.fromkeys(
        ("collection_names", "tensor_regex", "use_losses_collection", "activation_inputs_regex"), _SELECTS_TENSORS
    ),
    **dict.fromkeys(("labels_regex", "predictions_regex", "argmax"), "locates labels and predictions, which are known"),
    "scan_interval_us": "is the service's polling interval, but samples are taken every ten steps",
    "mode": "selects a phase, but each rule has a fixed one",
    "equal_nan": "compares NaN, which ExplodingTensor reports",
    "PoorWeightInitialization:distribution_range": "checks gradients, which VanishingGradient does",
    "PoorWeightInitialization:patience": "checks the loss, which LossNotDecreasing does with its num_steps",
    "PoorWeightInitialization:steps": "counts steps to check, but weights are checked before the first step",
    "WeightUpdateRatio:num_steps": "is the number of steps per update, which is always one",
    "LossNotDecreasing:increase_threshold_percent": "detects a rising loss, which diff_percent does too",
}
"""Service parameters that would have no effect here, by name or by rule and name, with the reason."""

_BOOLEANS = {"true": 1.0, "false": 0.0}
_SIGNED_PARAMETERS = frozenset(f"threshold_{kind}_{end}" for kind in ("tanh", "sigmoid") for end in ("min", "max"))


def parse_rules(text: str | None) -> dict[str, Parameters]:
    """Parse rules and their parameters from `all`, `None`, or `Name:parameter=value,Name`.

    Raises:
        ValueError: a rule or a parameter is unknown, or a value is not a number; the message lists the allowed ones.
    """
    if text is None:
        return {}
    if text.strip().lower() == "all":
        return dict(DEFAULTS)
    selected: dict[str, Parameters] = {}
    for entry in filter(None, (part.strip() for part in text.strip("[] ").split(","))):
        name, *settings = entry.split(":")
        rules = {name.lower().replace("_", ""): name for name in DEFAULTS}
        rule = rules.get(name.strip().lower().replace("_", ""))
        if rule is None:
            raise ValueError(f"there is no rule {name!r}{did_you_mean(name, list(DEFAULTS))}")
        selected[rule] = {**DEFAULTS[rule], **dict(_setting(rule, setting) for setting in settings)}
    return selected


def _setting(rule: str, text: str) -> tuple[str, float]:
    name, _, value = (part.strip() for part in text.partition("="))
    reason = UNSUPPORTED_PARAMETERS.get(f"{rule}:{name}") or UNSUPPORTED_PARAMETERS.get(name)
    if reason is not None:
        raise ValueError(f"{rule}:{name} is not supported: it {reason}. Remove it")
    if name not in DEFAULTS[rule]:
        raise ValueError(f"{rule} has no parameter {name!r}: it has {', '.join(DEFAULTS[rule])}")
    if name == "only_nan" and value.lower() in _BOOLEANS:
        return name, _BOOLEANS[value.lower()]
    return name, _number(f"{rule}:{name}", value, minimum=-math.inf if name in _SIGNED_PARAMETERS else 0.0)


def _number(name: str, text: str, minimum: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, expected a number") from None
    if not (math.isfinite(number) and number >= minimum):
        raise ValueError(f"{name} is {text!r}, expected a finite number" + (" of 0 or more" if minimum == 0 else ""))
    return number
