"""Every parameter of every rule has an effect: a finding at its default disappears with another value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from finetune.config.optimizers import LearningRateInUse
from finetune.config.rules import DEFAULTS, UNSUPPORTED_PARAMETERS, parse_rules
from finetune.monitoring.rules.chance import check_chance_level
from finetune.monitoring.rules.curves import TrainingCurves, check_class_balance, check_curves, check_rare_classes
from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.learning_rate import check_learning_rates
from finetune.monitoring.rules.machine import (
    MachineSample,
    ProcessTimes,
    check_load_balance,
    check_step_times,
    check_utilization,
)
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.rules.tensors import TensorWatch
from finetune.monitoring.timing import StepTiming

Situation = Callable[[Rules], list[Finding]]


def curves(train: list[float], validation: list[float], accuracy: list[float]) -> Situation:
    rows = [
        {"train:loss": a, "train:accuracy": 0.5, "validation:loss": b, "validation:accuracy": c}
        for a, b, c in zip(train, validation, accuracy, strict=True)
    ]
    return lambda rules: check_curves(TrainingCurves(rows, steps_per_epoch=4, validation_records=500), rules)


def machine(gpu: float, cpu: float, waiting: float, memory: float, *, grows: float = 0.0) -> Situation:
    samples = [MachineSample(gpu, cpu, waiting, memory + grows * at / 1200) for at in range(1200)]
    samples[:400] = [
        replace(sample, gpu=min(gpu, 1.0)) if gpu > 80 and not grows else sample for sample in samples[:400]
    ]
    return lambda rules: check_utilization(samples, rules, 1)


def training(
    learning_rate: float = 0.003, steps: int = 160, activation: type[nn.Module] = nn.ReLU, **changes: float
) -> Situation:
    """A small model with weights or biases that were filled, such as `weight0=0`, or scaled, such as `times2=1e-9`."""

    def train(rules: Rules) -> list[Finding]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 3))
        with torch.no_grad():
            for name, value in changes.items():
                layer = module[int(name[-1])]
                assert isinstance(layer, nn.Linear)
                if name.startswith("times"):
                    layer.weight.mul_(value)
                else:
                    getattr(layer, name[:-1]).fill_(value)
        optimizer = torch.optim.SGD(
            [{"params": list(module.parameters()), "lr": learning_rate, "peak_lr": learning_rate}]
        )
        watch = TensorWatch(module, optimizer, rules, scaled=False, classes=3)
        findings: list[Finding] = []
        for step in range(steps):
            inputs = torch.randn(1024, 6, generator=torch.Generator().manual_seed(step))
            watch.begin(step)
            loss = functional.cross_entropy(module(inputs), inputs[:, :3].argmax(dim=1))
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            if watch.is_sampling:
                watch.after_backward()
            optimizer.step()
            optimizer.zero_grad()
            findings += watch.after_step(loss.detach())
        return findings + watch.read()

    return train


def imbalance(rules: Rules) -> list[Finding]:
    return check_class_balance({"a": 1000, "b": 50}, rules, Setup())


def mistaken(rules: Rules) -> list[Finding]:
    return check_rare_classes({"a": 0.9, "b": 0.1}, {"a": 1000, "b": 200}, rules, Setup())


def fast(rules: Rules) -> list[Finding]:
    rate = LearningRateInUse("learning_rate", 0.01, "pretrained layers", "adamw", 2e-4, 2e-5, 1e-3)
    return check_learning_rates(rules, Setup(usual_rates=[rate]))


def uncertain(rules: Rules) -> list[Finding]:
    metrics = {
        "records": 20, "accuracy": 0.65, "majority_baseline_accuracy": 0.5, "majority_class": "a",
    }  # fmt: skip
    return check_chance_level("test", metrics, rules, Setup(), learned=True)


def exploding(rules: Rules) -> list[Finding]:
    rows = [{"train:loss": 0.5, "train:accuracy": 0.9, "validation:loss": 20.0, "validation:accuracy": 0.6}]
    return check_curves(TrainingCurves(rows, 20, 500, Setup(guess_loss=1.0)), rules)


FLAT = curves([2.0] * 5, [2.0] * 5, [0.2] * 5)
WORSE = curves([2, 1, 0.5, 0.1, 0.01], [2, 1.2, 1.1, 1.4, 1.9], [0.4, 0.7, 0.8, 0.72, 0.65])
RESTING = curves([2, 1, *[0.5] * 12], [2, 1, *[0.9] * 12], [0.3, 0.7, *[0.8] * 12])
DEAD, TANH, SIGMOID = training(bias0=-100.0), training(activation=nn.Tanh, bias0=50.0), training(
    activation=nn.Sigmoid, bias0=50.0
)  # fmt: skip
TANH_LOW, SIGMOID_LOW = training(activation=nn.Tanh, bias0=-50.0), training(activation=nn.Sigmoid, bias0=-50.0)
LONG, SLOW, SHORT = training(1e5, 20), training(1e-4, 120), training(1e-12, 120)
CPU, IO, LOW = machine(2, 97, 10, 80), machine(2, 10, 90, 80), machine(40, 50, 1, 90)
UNEVEN, SMALL = machine(95, 40, 1, 90), machine(40, 50, 1, 20)
UNBALANCED = [ProcessTimes(1, 42, 100), ProcessTimes(1, 2, 100)]
STEPS = [StepTiming(0, seconds, 8) for seconds in [0.1] * 500 + [5.0] * 15]
BUSY_AT_LAST = [MachineSample(40, 50, 1, 20)] * 1180 + [MachineSample(95, 50, 1, 20)] * 20
# Rule and parameter: the input that triggers the rule, and a parameter value that does not.
DECISIVE: Mapping[tuple[str, str], tuple[Situation, float]] = {
    ("LearningRate", "threshold"): (fast, 20),
    ("ExplodingLoss", "threshold"): (exploding, 30),
    # 13 or more of 20 fair coins show heads with a probability of 0.132.
    ("ChanceLevel", "significance"): (uncertain, 0.14),
    ("VanishingGradient", "threshold"): (training(times2=1e-9), 1e-30),
    ("ExplodingTensor", "only_nan"): (training(learning_rate=3e38, steps=1, times4=1e3), 1),
    ("PoorWeightInitialization", "threshold"): (training(times4=1000.0), 1e6),
    ("LossNotDecreasing", "num_steps"): (FLAT, 100),
    ("LossNotDecreasing", "diff_percent"): (curves([2, 1.9, 1.8, 1.7, 1.6], [2.0] * 5, [0.2] * 5), 50),
    ("Overfit", "start_step"): (WORSE, 1000),
    ("Overfit", "patience"): (WORSE, 5),
    ("Overfit", "ratio_threshold"): (WORSE, 1.0),
    ("Overtraining", "patience_train"): (RESTING, 100),
    ("Overtraining", "patience_validation"): (RESTING, 100),
    ("Overtraining", "delta"): (curves([2 - 0.005 * at for at in range(14)], [2.0] * 14, [0.5] * 14), 0.001),
    ("DeadRelu", "threshold_inactivity"): (DEAD, 0),
    ("DeadRelu", "threshold_layer"): (DEAD, 100),
    ("SaturatedActivation", "threshold_tanh_min"): (TANH_LOW, -1000),
    ("SaturatedActivation", "threshold_tanh_max"): (TANH, 1000),
    ("SaturatedActivation", "threshold_sigmoid_min"): (SIGMOID_LOW, -1000),
    ("SaturatedActivation", "threshold_sigmoid_max"): (SIGMOID, 1000),
    ("SaturatedActivation", "threshold_inactivity"): (TANH, 0),
    ("SaturatedActivation", "threshold_layer"): (TANH, 100),
    ("WeightUpdateRatio", "large_threshold"): (LONG, 1e30),
    ("WeightUpdateRatio", "small_threshold"): (SHORT, 0),
    ("WeightUpdateRatio", "epsilon"): (LONG, 1e30),
    ("AllZero", "threshold"): (DEAD, 101),
    ("UnchangedTensor", "num_steps"): (SHORT, 100),
    ("UnchangedTensor", "rtol"): (SLOW, 0),
    ("UnchangedTensor", "atol"): (SLOW, 0),
    ("ClassImbalance", "threshold_imbalance"): (imbalance, 30),
    ("ClassImbalance", "threshold_misprediction"): (mistaken, 0.95),
    ("ClassImbalance", "samples"): (imbalance, 5000),
    ("CPUBottleneck", "threshold"): (CPU, 100),
    ("CPUBottleneck", "gpu_threshold"): (CPU, 1),
    ("CPUBottleneck", "cpu_threshold"): (CPU, 99),
    ("CPUBottleneck", "patience"): (CPU, 5000),
    ("GPUMemoryIncrease", "increase"): (machine(95, 40, 1, 50, grows=30), 50),
    ("GPUMemoryIncrease", "patience"): (machine(95, 40, 1, 50, grows=30), 5000),
    ("GPUMemoryIncrease", "window"): (machine(95, 40, 1, 50, grows=30), 1200),
    ("LowGPUUtilization", "threshold_p95"): (LOW, 30),
    ("LowGPUUtilization", "threshold_p5"): (UNEVEN, 0),
    ("LowGPUUtilization", "window"): (UNEVEN, 500),
    ("LowGPUUtilization", "patience"): (LOW, 5000),
    ("IOBottleneck", "threshold"): (IO, 100),
    ("IOBottleneck", "gpu_threshold"): (IO, 1),
    ("IOBottleneck", "io_threshold"): (IO, 95),
    ("IOBottleneck", "patience"): (IO, 5000),
    ("LoadBalancing", "threshold"): (lambda rules: check_load_balance(UNBALANCED, rules, 1000), 0.5),
    ("LoadBalancing", "patience"): (lambda rules: check_load_balance(UNBALANCED, rules, 1000), 5000),
    ("StepOutlier", "stddev"): (lambda rules: check_step_times(STEPS, rules, 1), 50),
    ("StepOutlier", "n_outliers"): (lambda rules: check_step_times(STEPS, rules, 1), 20),
    ("BatchSize", "cpu_threshold_p95"): (SMALL, 40),
    ("BatchSize", "gpu_threshold_p95"): (SMALL, 30),
    ("BatchSize", "gpu_memory_threshold_p95"): (SMALL, 10),
    ("BatchSize", "patience"): (SMALL, 5000),
    ("BatchSize", "window"): (lambda rules: check_utilization(BUSY_AT_LAST, rules, 1), 20),
}
# The effect of these parameters shows only with a non-default value of a related parameter.
RELATED_VALUES: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("UnchangedTensor", "rtol"): {"rtol": 1000.0, "atol": 0.0},
    ("UnchangedTensor", "atol"): {"rtol": 0.0, "atol": 1e-4},
    ("LowGPUUtilization", "window"): {"window": 1200},
    ("LowGPUUtilization", "threshold_p5"): {"window": 1200},
    ("WeightUpdateRatio", "epsilon"): {"small_threshold": 0.0},
}


def test_all_rule_parameters_are_covered() -> None:
    assert set(DECISIVE) == {(rule, name) for rule, parameters in DEFAULTS.items() for name in parameters}
    assert len(DEFAULTS) == 22


@pytest.mark.parametrize(("rule", "name"), DECISIVE)
def test_parameter_changes_the_finding(rule: str, name: str) -> None:
    situation, value = DECISIVE[rule, name]
    before = {**DEFAULTS[rule], **RELATED_VALUES.get((rule, name), {})}
    after = {**before, name: value}
    rule_names = [{finding.rule for finding in situation({rule: parameters})} for parameters in (before, after)]
    assert sorted(rule_names, key=len) == [set(), {rule}]


@pytest.mark.parametrize("name", UNSUPPORTED_PARAMETERS)
def test_unsupported_parameter_is_refused_with_a_reason(name: str) -> None:
    rule, _, parameter = name.rpartition(":")
    with pytest.raises(ValueError, match="Remove it"):
        parse_rules(f"{rule or 'Overfit'}:{parameter}=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Overfit:patience=-1", "expected a finite number of 0 or more"),
        ("Overfit:patience=nan", "expected a finite number"),
        ("Overfit:patience=inf", "expected a finite number"),
        ("ExplodingTensor:only_nan=perhaps", "expected a number"),
    ],
)
def test_invalid_parameter_value_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_rules(text)


def test_booleans_and_negative_bounds_are_parsed() -> None:
    assert parse_rules("ExplodingTensor:only_nan=True")["ExplodingTensor"]["only_nan"] == 1
    assert parse_rules("SaturatedActivation:threshold_tanh_min=-2")["SaturatedActivation"]["threshold_tanh_min"] == -2
