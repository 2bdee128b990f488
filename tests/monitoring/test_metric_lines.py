"""Metric lines can be parsed by a regular expression, whatever the size of the number."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from finetune.monitoring.metric_lines import metric_line


def test_metric_line_of_an_epoch() -> None:
    line = metric_line(2, {"train:loss": 0.1234567, "validation:accuracy": 0.5})
    assert line == "epoch=3; train:loss=0.123457; validation:accuracy=0.500000;"


@given(st.floats(min_value=-1e9, max_value=1e9))
def test_numbers_are_not_in_scientific_notation(value: float) -> None:
    match = re.search(r"validation:loss=(-?[0-9]+\.[0-9]{6});", metric_line(0, {"validation:loss": value}))
    assert match is not None
    assert abs(float(match[1]) - value) <= 5.1e-7 + abs(value) * 1e-15
