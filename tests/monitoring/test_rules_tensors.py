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


def network(seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, CLASSES))


def records(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, (inputs[:, :CLASSES] * 2).argmax(dim=1)


def train(module: nn.Sequential, steps: int = 160, rate: float = 0.003, *, rules: str = "all") -> list[Finding]:
    chosen = dict(DEFAULTS) if rules == "all" else {rules: DEFAULTS[rules]}
    optimizer = torch.optim.AdamW([{"params": list(module.parameters()), "lr": rate, "peak_lr": 0.003}])
    watch = TensorWatch(module, optimizer, chosen, scaled=False, classes=CLASSES)
    found: list[Finding] = []
    module.train()
    for step in range(steps):
        inputs, targets = records(1024, step)
        watch.begin(step)
        loss = functional.cross_entropy(module(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        if watch.is_sampling:
            watch.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        found += watch.after_step(loss.detach())
    return found + watch.read()


def scale(layer: int, factor: float) -> Change:
    def change(module: nn.Sequential) -> None:
        with torch.no_grad():
            module[layer].weight.mul_(factor)  # type: ignore[operator]

    return change


def fill(layer: int, what: str, value: float) -> Change:
    def change(module: nn.Sequential) -> None:
        with torch.no_grad():
            getattr(module[layer], what).fill_(value)

    return change


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_healthy_training_gives_no_alarm(seed: int, activation: type[nn.Module]) -> None:
    assert train(network(seed, activation)) == []


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
def test_a_network_that_begins_badly_is_told(rule: str, change: Change, where: str) -> None:
    module = network()
    change(module)
    found = train(module, rules=rule)
    assert [one.rule for one in found] == [rule]
    assert found[0].where.split(",")[0] == where
    assert found[0].advice.endswith(".")


def test_saturated_units_are_told() -> None:
    module = network(activation=nn.Sigmoid)
    with torch.no_grad():
        module[0].bias.fill_(100.0)  # type: ignore[operator]
    assert [one.where for one in train(module, rules="SaturatedActivation")] == ["1"]


def test_steps_that_are_far_too_long_are_told() -> None:
    assert [one.rule for one in train(network(), 20, rate=1000.0, rules="WeightUpdateRatio")] == ["WeightUpdateRatio"]


@pytest.mark.parametrize("rule", ["WeightUpdateRatio", "UnchangedTensor"])
def test_steps_that_change_nothing_are_told(rule: str) -> None:
    module = network()
    # A tensor that does not learn although the plan trains it: its gradients are zero.
    with torch.no_grad():
        module[2].weight.zero_()  # type: ignore[operator]
        module[4].weight.zero_()  # type: ignore[operator]
    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "lr": 1e-12, "peak_lr": 1e-12}])
    watch = TensorWatch(module, optimizer, {rule: DEFAULTS[rule]}, scaled=False, classes=CLASSES)
    found: list[Finding] = []
    for step in range(120):
        watch.begin(step)
        loss = functional.cross_entropy(module(records(64)[0]), records(64)[1])
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        watch.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        found += watch.after_step(loss.detach())
    assert {one.rule for one in found + watch.read()} == {rule}


def test_a_rate_that_the_schedule_has_brought_down_is_no_fault() -> None:
    assert train(network(), rate=1e-15, rules="WeightUpdateRatio") == []


def test_nothing_is_looked_at_between_the_looks() -> None:
    module = network()
    watch = TensorWatch(module, torch.optim.SGD(module.parameters(), lr=0.1), DEFAULTS, scaled=False, classes=CLASSES)
    looked = []
    for step in range(120):
        watch.begin(step)
        looked.append(step) if watch.is_sampling else None
        assert any(one._forward_hooks for one in module) == watch.is_sampling
        watch.after_step(torch.zeros(()))
    assert looked == [0, 10, 50, 100]
