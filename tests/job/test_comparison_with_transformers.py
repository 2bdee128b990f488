"""Evaluating a model folder of any family gives the probabilities of transformers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import comparison
from tests.support.comparison import CASES, Case, compare
from tests.support.tiny_transformers import IMAGE_TYPES, TEXT_TYPES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
    pytest.mark.slow,
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.family}, {case.records}" for case in CASES])
def test_evaluate_equals_the_pipeline_of_transformers(case: Case, tmp_path: Path) -> None:
    assert compare(case, tmp_path).difference <= case.bound


def test_every_family_is_compared_and_documented() -> None:
    assert {case.family for case in CASES} == {*TEXT_TYPES, *IMAGE_TYPES, comparison.REAL}
    page = comparison.PAGE.read_text(encoding="utf-8")
    table = page.partition(comparison.BEGIN)[2].partition(comparison.END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    assert [(row[0].strip("`"), row[2].partition(" ")[2]) for row in rows] == [
        (case.family, case.records) for case in CASES
    ]
    for case, row in zip(CASES, rows, strict=True):
        assert float(row[3].removeprefix("below ")) <= case.bound
