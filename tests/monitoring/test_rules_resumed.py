"""The findings of rules do not depend on where training was interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.checkpoint import flatten_state, unflatten_state
from finetune.config.rules import parse_rules
from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.tensors import TensorWatch

STEPS = 125
SENSITIVE_RULES = "UnchangedTensor:num_steps=3:atol=1e9,DeadRelu,VanishingGradient:threshold=1e9,WeightUpdateRatio"


def make_monitor(module: nn.Module, optimizer: torch.optim.Optimizer, rules: str = SENSITIVE_RULES) -> TensorWatch:
    return TensorWatch(module, optimizer, parse_rules(rules), scaled=False, classes=3)


def train(
    interruptions: frozenset[int], rules: Callable[[int], str] = lambda step: SENSITIVE_RULES
) -> list[tuple[int, Finding]]:
    """Findings with the step of their report; at each interruption a new monitor restores the state."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.no_grad():
        module[0].bias.fill_(-100.0)  # type: ignore[operator]
    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "lr": 0.01, "peak_lr": 0.01}])
    monitor = make_monitor(module, optimizer)
    findings: list[tuple[int, Finding]] = []
    for step in range(STEPS):
        if step in interruptions:
            state = unflatten_state(flatten_state(monitor.state_dict()))
            monitor = make_monitor(module, optimizer, rules(step))
            monitor.load_state_dict(state)
        inputs = torch.randn(1024, 6, generator=torch.Generator().manual_seed(step))
        monitor.begin(step)
        loss = functional.cross_entropy(module(inputs), (inputs[:, :3] * 2).argmax(dim=1))
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        if monitor.is_sampling:
            monitor.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        findings += [(step, finding) for finding in monitor.after_step(loss.detach())]
    return findings + [(STEPS, finding) for finding in monitor.read()]


def test_findings_do_not_depend_on_interruptions() -> None:
    uninterrupted = train(frozenset())
    assert {(step, finding.rule) for step, finding in uninterrupted} == {
        (10, "VanishingGradient"),
        (10, "WeightUpdateRatio"),
        (50, "DeadRelu"),
        (100, "UnchangedTensor"),
    }
    for step in (1, 10, 11, 49, 50, 51, 100, 101):
        assert train(frozenset({step})) == uninterrupted
    assert train(frozenset(range(STEPS))) == uninterrupted


def test_rules_can_be_enabled_when_resuming() -> None:
    findings = train(frozenset({20, 30}), lambda step: "DeadRelu" if step == 20 else SENSITIVE_RULES)
    assert [finding.rule for step, finding in findings if step == 50] == ["DeadRelu"]
    monitor = make_monitor(nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    monitor.load_state_dict({})
    assert monitor.read() == []


def monitor_state(**changes: object) -> dict[str, Any]:
    sample = {"step": 10, "names": ["0.weight"], "numbers": torch.zeros(1, 9), "loss": torch.zeros(()), "rate": 1.0}
    return {
        "first_loss": 1.0,
        "unchanged": {},
        "suspects": [],
        "told": [],
        "waiting": sample | {"silences": []} | changes,
    }


@pytest.mark.parametrize(
    "state",
    [
        monitor_state(numbers=torch.zeros(1, 8)),
        monitor_state(numbers="many"),
        monitor_state(loss=torch.zeros(2)),
        monitor_state(silences=[{"rule": "DeadRelu", "layer": "1", "share": None}]),
        monitor_state() | {"unchanged": {"0.weight": "often"}},
        monitor_state() | {"suspects": [["DeadRelu"]]},
    ],
)
def test_invalid_state_is_refused(state: Mapping[str, Any]) -> None:
    monitor = make_monitor(nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    with pytest.raises(ValueError, match=r"."):
        monitor.load_state_dict(state)


def test_valid_state_is_restored() -> None:
    monitor = make_monitor(nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    monitor.load_state_dict(monitor_state())
    assert isinstance(monitor.state_dict()["waiting"]["numbers"], Tensor)
