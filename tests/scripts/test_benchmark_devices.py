"""The measurements of several processes count what they claim to count."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.device_steps import interleave, measure_in_processes
from benchmarks.devices import bytes_per_process


def test_calls_take_turns_after_a_round_that_is_not_counted() -> None:
    calls: list[str] = []
    costs = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(own) for name, own in costs.items()} == {"a": 2, "b": 2}


@pytest.mark.slow
def test_bytes_on_the_wire_are_those_of_a_ring() -> None:
    elements = 1_000_000
    sent = bytes_per_process(2, elements)
    if sent is None:
        pytest.skip("needs the right to create a network namespace")
    assert 1.0 <= sent / (4 * elements) < 1.05


@pytest.mark.slow
def test_every_process_is_measured(tmp_path: Path) -> None:
    ranks = measure_in_processes(2, "scaling", "ResNet-18", 1, tmp_path)
    assert [set(costs) for costs in ranks] == [{"evaluation", "training"}] * 2
    assert all(cost.cpu > 0 for costs in ranks for own in costs.values() for cost in own)
