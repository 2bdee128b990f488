"""The benchmark runs and reports every column of its table."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.watched_process import CommandFailedError, watch

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"\d+\.\d")


def output_of(measurement: str, *options: str) -> str:
    """The output of a quick run."""
    variables = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'src'}"}
    command = [sys.executable, "-P", "-m", "benchmarks", measurement, "--quick", *options]
    completed = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def rows_of(measurement: str, *options: str) -> list[dict[str, str]]:
    """The table of a quick run: cells by column name."""
    lines = [
        line.strip("| ").split(" | ") for line in output_of(measurement, *options).splitlines() if line.startswith("|")
    ]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


@pytest.mark.slow
def test_feature_extraction_benchmark_has_all_columns() -> None:
    (row,) = rows_of("features")
    assert row["model, images, epochs"] == "resnet18, 4, 2"
    assert all(NUMBER.match(row[name]) for name in ("Trainer / ours", "ours / bare script", "ours / pass"))
    assert len(row["accuracy: ours, Trainer"].split(", ")) == 2


@pytest.mark.slow
def test_training_benchmark_has_all_columns() -> None:
    rows = rows_of("full")
    assert [row["model, trainable layers, records, epochs"] for row in rows] == [
        "resnet18, all, 4, 2",
        "MiniLM, all, 8, 2",
    ]
    for row in rows:
        assert all(NUMBER.match(row[name]) for name in ("Trainer / ours", "ours / bare loop"))
        assert len(row["first step, s: ours, Trainer"].split(", ")) == 2
    assert NUMBER.match(rows[0]["ours / timm"])


def test_monitoring_costs_are_measured_separately() -> None:
    costs = {row["measurement"]: row["cost"] for row in rows_of("observe")}
    ratios = ("looked at", "hooked", "loss saved", "gradients saved")
    assert all(NUMBER.match(costs[f"a step, {name}"]) for name in ratios)
    assert costs["rules: every 50th step is sampled"].endswith("%")
    assert len(costs) == 12


def test_memory_includes_child_processes(tmp_path: Path) -> None:
    child = "import time; held = bytearray(60 * 2**20); time.sleep(0.4)"
    code = f"import subprocess, sys; held = bytearray(60 * 2**20); subprocess.run([sys.executable, '-c', {child!r}])"
    assert watch([sys.executable, "-c", code], os.environ, tmp_path).peak_mib > 120


def test_lines_have_their_time_of_arrival(tmp_path: Path) -> None:
    """Much later than the line before, however late a busy machine reads it."""
    code = "import time; print('first', flush=True); time.sleep(0.6); print('last 7')"
    watched = watch([sys.executable, "-c", code], os.environ, tmp_path)
    assert watched.line("last")[1] == "7"
    assert watched.line("last")[0] - watched.line("first")[0] > 0.1
    with pytest.raises(CommandFailedError, match="no line begins with 'between'"):
        watched.line("between")


def test_failing_command_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"ended with 3:\nbad"):
        watch([sys.executable, "-c", "print('bad'); raise SystemExit(3)"], os.environ, tmp_path)


@pytest.mark.slow
def test_serving_benchmark_has_all_columns() -> None:
    """Without Java, AWS's model server is missing."""
    rows = rows_of("serving", "--part", "requests")
    assert [row["model, clients"] for row in rows] == ["resnet18, 1", "resnet18, 8"]
    sides = 1 if shutil.which("java") is None else 2
    for row in rows:
        assert bool(NUMBER.match(row["ours / AWS"])) == (sides == 2)
        assert all(len(row[name].split(", ")) == sides for name in ("requests/s", "p99, ms", "CPU, ms per request"))


@pytest.mark.slow
def test_learning_benchmark_scores_a_task() -> None:
    output = output_of("learning")
    assert re.search(r"\| docstrings \| 5 \| 0\.\d{3} \|", output)
    assert re.search(r"\| finetune, head \| 1\.00 \| 0\.000 \| \d+ \| 0 \|", output)
