"""The findings of rules do not depend on where training was interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.checkpoint import flatten_state, unflatten_state
from finetune.config.rules import rules_of
from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.tensors import TensorWatch

STEPS = 125
TOUCHY = "UnchangedTensor:num_steps=3:atol=1e9,DeadRelu,VanishingGradient:threshold=1e9,WeightUpdateRatio"


def watched(module: nn.Module, optimizer: torch.optim.Optimizer, rules: str = TOUCHY) -> TensorWatch:
    return TensorWatch(module, optimizer, rules_of(rules), scaled=False, classes=3)


def train(cuts: frozenset[int], rules: Callable[[int], str] = lambda step: TOUCHY) -> list[tuple[int, Finding]]:
    """Findings with the step of their report; at each cut a new watcher restores the previous one's state."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.no_grad():
        module[0].bias.fill_(-100.0)  # type: ignore[operator]
    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "lr": 0.01, "peak_lr": 0.01}])
    watch = watched(module, optimizer)
    found: list[tuple[int, Finding]] = []
    for step in range(STEPS):
        if step in cuts:
            state = unflatten_state(flatten_state(watch.state_dict()))
            watch = watched(module, optimizer, rules(step))
            watch.load_state_dict(state)
        inputs = torch.randn(1024, 6, generator=torch.Generator().manual_seed(step))
        watch.begin(step)
        loss = functional.cross_entropy(module(inputs), (inputs[:, :3] * 2).argmax(dim=1))
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        if watch.is_sampling:
            watch.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        found += [(step, one) for one in watch.after_step(loss.detach())]
    return found + [(STEPS, one) for one in watch.read()]


def test_wherever_it_is_cut() -> None:
    whole = train(frozenset())
    assert {(step, one.rule) for step, one in whole} == {
        (10, "VanishingGradient"),
        (10, "WeightUpdateRatio"),
        (50, "DeadRelu"),
        (100, "UnchangedTensor"),
    }
    for step in (1, 10, 11, 49, 50, 51, 100, 101):
        assert train(frozenset({step})) == whole
    assert train(frozenset(range(STEPS))) == whole


def test_rules_that_were_not_asked_for_before_begin_to_watch() -> None:
    found = train(frozenset({20, 30}), lambda step: "DeadRelu" if step == 20 else TOUCHY)
    assert [one.rule for step, one in found if step == 50] == ["DeadRelu"]
    watch = watched(nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    watch.load_state_dict({})
    assert watch.read() == []


def a_look(**changes: object) -> dict[str, Any]:
    look = {"step": 10, "names": ["0.weight"], "numbers": torch.zeros(1, 9), "loss": torch.zeros(()), "rate": 1.0}
    return {
        "first_loss": 1.0,
        "unchanged": {},
        "suspects": [],
        "told": [],
        "waiting": look | {"silences": []} | changes,
    }


@pytest.mark.parametrize(
    "state",
    [
        a_look(numbers=torch.zeros(1, 8)),
        a_look(numbers="many"),
        a_look(loss=torch.zeros(2)),
        a_look(silences=[{"rule": "DeadRelu", "layer": "1", "share": None}]),
        a_look() | {"unchanged": {"0.weight": "often"}},
        a_look() | {"suspects": [["DeadRelu"]]},
    ],
)
def test_what_is_not_of_this_form_is_refused(state: Mapping[str, Any]) -> None:
    watch = watched(nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    with pytest.raises(ValueError, match=r"."):
        watch.load_state_dict(state)


def test_a_look_of_the_right_form_is_taken_up() -> None:
    watch = watched(nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    watch.load_state_dict(a_look())
    assert isinstance(watch.state_dict()["waiting"]["numbers"], Tensor)
