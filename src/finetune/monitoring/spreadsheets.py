"""Cells of CSV files that spreadsheets do not read as formulas."""

from __future__ import annotations

import re

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""Start of a cell that a spreadsheet may read as a formula."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def plain_cell(text: str) -> str:
    """Prefix the text with an apostrophe if a spreadsheet would read it as a formula.

    This applies to texts that start with `=`, `+`, `-`, `@`, a tab or a line end and are not numbers; apostrophes in
    front of these count as part of the start. To recover the text, drop the first character of cells that match
    `FORMULA` and start with an apostrophe.
    """
    if not FORMULA.match(text) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}"
