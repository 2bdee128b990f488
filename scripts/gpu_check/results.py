"""Rows of the tables, stored as JSON lines, so that a part that fails or times out keeps its finished rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

NEEDS_GPU = "needs a GPU"


@dataclass(frozen=True, slots=True)
class Table:
    """Title, explanation and columns of a table."""

    title: str
    explanation: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Row of the table with this title."""

    title: str
    cells: tuple[str, ...]


class Results:
    """Appends rows to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, table: Table, *cells: str) -> None:
        """Append a row; cells must match the columns."""
        if len(cells) != len(table.columns):
            raise ValueError(f"{table.title}: {len(cells)} cells for {len(table.columns)} columns")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Row(table.title, cells))) + "\n")

    def add_error(self, table: Table, label: str, error: BaseException) -> None:
        """Append a row whose second cell is an error."""
        text = f"failed: {type(error).__name__}: {one_line(str(error))}"
        self.add(table, label, text, *[""] * (len(table.columns) - 2))


def read_rows(path: Path) -> list[Row]:
    """Read the rows so far."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [Row(line["title"], tuple(line["cells"])) for line in lines]


def render(table: Table, rows: Sequence[Row]) -> str:
    """A Markdown table with its title and explanation."""
    lines = [table.columns, ("---",) * len(table.columns), *(row.cells for row in rows if row.title == table.title)]
    text = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in lines)
    return f"## {table.title}\n\n{table.explanation}\n\n{text}\n"


def one_line(text: str, limit: int = 300) -> str:
    """The text in one line, with its end if it is too long."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else f"... {joined[-limit:]}"
