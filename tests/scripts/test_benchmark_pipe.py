"""The Pipe mode benchmark runs and prints every row of its table."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.pipe.comparing import Row, by_turns, times_as_fast
from benchmarks.pipe.run import PARTS

ROOT = Path(__file__).resolve().parents[2]
ROWS = {"cutting": 6, "dealing": 2, "decoding": 2, "loading": 3}
BEGINNINGS = {
    "cutting": ("| RecordIO, ", "| TFRecord, ", "| tar, "),
    "dealing": ("| distribution to ",),
    "decoding": ("| Record of ", "| JPEG, "),
    "loading": ("| whole loader ", "| first batch, ", "| peak memory "),
}


@pytest.mark.slow
def test_every_part_prints_its_rows() -> None:
    """In one process, because importing a part's dependencies takes longer than its quick run."""
    part_options = [word for part in reversed(ROWS) for word in ("--part", part)]
    command = (str(ROOT / "scripts" / "benchmark"), "pipe", "--quick", *part_options)
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    _, _, header, _, *rows = printed.splitlines()
    assert header.startswith("| measurement | ours | reference |")
    assert {row.count("|") for row in rows} == {6}
    expected = [BEGINNINGS[part] for part in reversed(ROWS) for _ in range(ROWS[part])]
    assert len(rows) == len(expected)
    assert [row for row, words in zip(rows, expected, strict=True) if not row.startswith(words)] == []
    assert list(ROWS) == list(PARTS)


def test_designs_alternate_after_warmup_round() -> None:
    calls: list[str] = []

    def design(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = by_turns({"a": lambda: design("a"), "b": lambda: design("b")}, 2)
    assert "".join(calls) == "ababab"
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert times_as_fast(seconds, "a", "b") == [4 / 3, 6 / 5]


def test_row_shows_median_and_spread() -> None:
    row = Row("tar", "2.00 GB/s", "raw, 1.00 GB/s", [0.5, 0.9, 0.7], "≥ 0.6")
    assert str(row) == "| tar | 2.00 GB/s | raw, 1.00 GB/s | 0.70 (0.50 to 0.90) | ≥ 0.6 |"
