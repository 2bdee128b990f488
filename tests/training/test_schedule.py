"""The learning rate is a function of the step."""

from __future__ import annotations

import pytest

from finetune.training.schedule import Schedule


def test_warm_up_rises_linearly_and_reaches_the_peak() -> None:
    schedule = Schedule("constant", total_steps=100, steps_per_epoch=10, warmup_steps=4)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "quarter", "half", "end"),
    [
        ("linear", 0.75, 0.5, 0.0),
        ("cosine", 0.5 * (1 + 2**-0.5), 0.5, 0.0),
        ("exponential", 0.1**0.25, 0.1**0.5, 0.1),
        ("constant", 1.0, 1.0, 1.0),
    ],
)
def test_the_decay_follows_its_formula(name: str, quarter: float, half: float, end: float) -> None:
    schedule = Schedule(name, total_steps=100, steps_per_epoch=10, factor=0.1)  # type: ignore[arg-type]
    assert [schedule(0), schedule(25), schedule(50), schedule(100)] == pytest.approx([1.0, quarter, half, end])


def test_steps_fall_at_the_borders_of_epochs() -> None:
    schedule = Schedule("step", total_steps=60, steps_per_epoch=10, borders=(2, 4), factor=0.5)
    assert [schedule(step) for step in (0, 19, 20, 39, 40, 59)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
