"""Cells are escaped if a spreadsheet would read them as a formula."""

from __future__ import annotations

import pytest

from finetune.monitoring.spreadsheets import FORMULA, plain_cell

HOSTILE = (
    '=HYPERLINK("http://example.com")',
    "=cmd|' /C calc'!A0",
    "@SUM(A1)",
    "+1+cmd",
    "-2+3",
    "\t=1",
    "\r=1",
    "\n=1",
)
PLAIN = ("cat", "-1", "+1", "-1.5e3", "1", "a=b", "'quoted'", "", " = ", "U+00C0", "é")


@pytest.mark.parametrize("text", HOSTILE)
def test_formulas_are_escaped(text: str) -> None:
    assert plain_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_other_cells_are_unchanged(text: str) -> None:
    assert plain_cell(text) == text


@pytest.mark.parametrize("text", [*HOSTILE, *PLAIN, "'=1", "''=1"])
def test_escaped_cells_can_be_restored(text: str) -> None:
    cell = plain_cell(text)
    assert (cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell) == text
