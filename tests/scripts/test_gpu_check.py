"""The dry run of the GPU check has every table and row."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_check.requirements import missing
from gpu_check.results import Results, Table, read_rows, render

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"\d+(\.\d+)?$")
DIFFERENCE = re.compile(r"\d\.\de[-+]\d+$")


def tables_of(report: str) -> dict[str, list[dict[str, str]]]:
    """Rows by the title of their table: cells by column name."""
    tables = {}
    for section in report.split("\n## ")[1:]:
        cells = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
        header = [name.strip() for name in cells[0]]
        assert len(cells) > 2, section
        tables[section.splitlines()[0]] = [
            dict(zip(header, (cell.strip() for cell in row), strict=True)) for row in cells[2:]
        ]
    return tables


@pytest.mark.slow
def test_dry_run_fills_all_tables(tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    command = [str(ROOT / "scripts" / "gpu-check"), "--dry-run", "--output", str(output)]
    variables = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "failed" not in re.sub(r"\| tests \|.*", "", process.stdout)
    assert output.read_text("utf-8").split() == process.stdout.split()
    tables = tables_of(process.stdout)

    assert all(row["passed"] == "needs a GPU" for row in tables["CUDA tests"])
    assert "tests/checkpoint/test_snapshot.py" in [row["tests"] for row in tables["CUDA tests"]]

    passes = {row["model, precision"]: row for row in tables["Exactness of forward passes"]}
    assert set(passes) == {
        "ResNet-18, fp32", "ResNet-18, bf16", "MiniLM-L6 size, fp32", "MiniLM-L6 size, bf16"
    }  # fmt: skip
    assert all(row["split at every group"].startswith("equal bits") for row in passes.values())
    assert all(row["features in other batches"] == "equal bits" for row in passes.values())
    assert DIFFERENCE.match(passes["ResNet-18, fp32"]["folded batch normalization"])

    jobs = {row["model, strategy"]: row for row in tables["Exactness of whole jobs"]}
    assert set(jobs) == {"ResNet-18, `partial`", "MiniLM-L6 size, `partial`"}
    assert all(row["interrupted twice and resumed"] == "equal bits" for row in jobs.values())
    assert all(row["without cache"] == "equal bits" for row in jobs.values())

    steps = tables["Virtual devices on one device"]
    assert [row["step"] for row in steps] == ["bare step", "1 virtual device", "2 virtual devices"]
    assert all(NUMBER.match(row["ms"]) and row["repeated"] == "equal bits" for row in steps)
    (pair,) = tables["Two processes on one device"]
    assert pair["one process repeated"] == pair["both processes"] == "equal bits"
    assert pair["two processes, one process"] == "equal bits"

    modes = tables["Deterministic algorithms"]
    assert len(modes) == 4
    assert all(NUMBER.match(row["time / default"]) and row["repeated"] == "equal bits" for row in modes)

    speeds = {row["side"]: row for row in tables["Speed of training"]}
    timm = [] if missing({"timm": "timm"}) else ["timm"]
    assert list(speeds) == ["ours", "ours, with the first step", "Trainer", *timm, "bare loop"]
    assert all(NUMBER.match(row["ours / side"]) for row in speeds.values())
    assert all(row["peak GPU memory, MiB"] == "needs a GPU" for row in speeds.values())


def test_missing_packages_are_named() -> None:
    assert missing({"torch": "torch", "no_such_package": "no-such-package"}) == ["no-such-package"]


def test_error_takes_a_row_of_its_table(tmp_path: Path) -> None:
    table, results = Table("Title", "Explanation.", ("name", "value", "ratio")), Results(tmp_path / "rows")
    results.add(table, "first", "1", "2")
    results.add_error(table, "second", ValueError("a | b\nc"))
    text = render(table, read_rows(tmp_path / "rows"))
    assert "| first | 1 | 2 |" in text
    assert "| second | failed: ValueError: a / b c |  |" in text
