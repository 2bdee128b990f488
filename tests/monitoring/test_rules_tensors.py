"""Rules about tensors: values that trigger each one, and healthy ones that do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config.rules import DEFAULTS
from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.tensors import TensorWatch

CLASSES = 3
Change = Callable[[nn.Sequential], None]


def model(seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, CLASSES))


def records(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, (inputs[:, :CLASSES] * 2).argmax(dim=1)


def train(
    module: nn.Sequential, steps: int = 160, learning_rate: float = 0.003, *, rules: str = "all"
) -> list[Finding]:
    enabled = dict(DEFAULTS) if rules == "all" else {rules: DEFAULTS[rules]}
    optimizer = torch.optim.AdamW([{"params": list(module.parameters()), "lr": learning_rate, "peak_lr": 0.003}])
    monitor = TensorWatch(module, optimizer, enabled, scaled=False, classes=CLASSES)
    findings: list[Finding] = []
    module.train()
    for step in range(steps):
        inputs, targets = records(1024, step)
        monitor.begin(step)
        loss = functional.cross_entropy(module(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        if monitor.is_sampling:
            monitor.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        findings += monitor.after_step(loss.detach())
    return findings + monitor.read()


def scale(layer: int, factor: float) -> Change:
    def change(module: nn.Sequential) -> None:
        with torch.no_grad():
            module[layer].weight.mul_(factor)  # type: ignore[operator]

    return change


def fill(layer: int, name: str, value: float) -> Change:
    def change(module: nn.Sequential) -> None:
        with torch.no_grad():
            getattr(module[layer], name).fill_(value)

    return change


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_healthy_training_has_no_findings(seed: int, activation: type[nn.Module]) -> None:
    assert train(model(seed, activation)) == []


@pytest.mark.parametrize(
    ("rule", "change", "where"),
    [
        ("VanishingGradient", scale(2, 1e-9), "0.weight"),
        ("ExplodingTensor", fill(4, "bias", float("inf")), "0.weight"),
        ("PoorWeightInitialization", fill(0, "weight", 0.3), "0.weight"),
        ("PoorWeightInitialization", scale(4, 1000.0), "0.weight"),
        ("DeadRelu", fill(0, "bias", -100.0), "1"),
        ("AllZero", fill(0, "bias", -100.0), "0.weight"),
    ],
)
def test_bad_initial_weights_are_reported(rule: str, change: Change, where: str) -> None:
    module = model()
    change(module)
    findings = train(module, rules=rule)
    assert [finding.rule for finding in findings] == [rule]
    assert findings[0].location.split(",")[0] == where
    assert findings[0].advice.endswith(".")


def test_saturated_units_are_reported() -> None:
    module = model(activation=nn.Sigmoid)
    with torch.no_grad():
        module[0].bias.fill_(100.0)  # type: ignore[operator]
    assert [finding.location for finding in train(module, rules="SaturatedActivation")] == ["1"]


def test_too_large_updates_are_reported() -> None:
    findings = train(model(), 20, learning_rate=1000.0, rules="WeightUpdateRatio")
    assert [finding.rule for finding in findings] == ["WeightUpdateRatio"]


@pytest.mark.parametrize("rule", ["WeightUpdateRatio", "UnchangedTensor"])
def test_updates_without_effect_are_reported(rule: str) -> None:
    module = model()
    # A tensor that does not learn although the plan trains it: its gradients are zero.
    with torch.no_grad():
        module[2].weight.zero_()  # type: ignore[operator]
        module[4].weight.zero_()  # type: ignore[operator]
    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "lr": 1e-12, "peak_lr": 1e-12}])
    monitor = TensorWatch(module, optimizer, {rule: DEFAULTS[rule]}, scaled=False, classes=CLASSES)
    findings: list[Finding] = []
    for step in range(120):
        monitor.begin(step)
        loss = functional.cross_entropy(module(records(64)[0]), records(64)[1])
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        monitor.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        findings += monitor.after_step(loss.detach())
    assert {finding.rule for finding in findings + monitor.read()} == {rule}


def test_low_scheduled_learning_rate_is_not_reported() -> None:
    assert train(model(), learning_rate=1e-15, rules="WeightUpdateRatio") == []


def test_hooks_exist_only_in_sampled_steps() -> None:
    module = model()
    monitor = TensorWatch(module, torch.optim.SGD(module.parameters(), lr=0.1), DEFAULTS, scaled=False, classes=CLASSES)
    sampled_steps = []
    for step in range(120):
        monitor.begin(step)
        sampled_steps.append(step) if monitor.is_sampling else None
        assert any(layer._forward_hooks for layer in module) == monitor.is_sampling
        monitor.after_step(torch.zeros(()))
    assert sampled_steps == [0, 10, 50, 100]
