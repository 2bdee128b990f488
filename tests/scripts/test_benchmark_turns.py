"""Interleaved commands share the machine, each with a clock that pauses while others run."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.turns import by_turns
from benchmarks.watched_process import CommandFailedError, Watched, watch

# A process whose child works: both have to be paused. The child logs when it works, five milliseconds at a time.
WORK = """
import time
for _ in range(400):
    began = time.monotonic()
    while time.monotonic() < began + 0.004:
        pass
    print(began, flush=True)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORK!r}], check=True)"


def watched(code: str, folder: Path, results: list[Watched]) -> None:
    results.append(watch([sys.executable, "-c", code], os.environ, folder))


def moments(run: Watched) -> list[float]:
    return [float(text) for _, text in run.output]


def test_commands_run_one_at_a_time(tmp_path: Path) -> None:
    first: list[Watched] = []
    second: list[Watched] = []
    began = time.monotonic()
    by_turns(lambda: watched(PARENT, tmp_path, first), lambda: watched(PARENT, tmp_path, second))
    elapsed = time.monotonic() - began
    assert len(moments(first[0])) == len(moments(second[0])) == 400
    merged = sorted([(when, "one") for when in moments(first[0])] + [(when, "other") for when in moments(second[0])])
    changes = sum(before[1] != after[1] for before, after in itertools.pairwise(merged))
    # 1.6 seconds of work each, in slices of half a second; in parallel they would alternate hundreds of times.
    assert 3 <= changes <= 100
    assert first[0].seconds + second[0].seconds <= elapsed
    assert first[0].seconds >= 1.6


def test_line_times_exclude_turns_of_other_commands(tmp_path: Path) -> None:
    runs: list[Watched] = []
    slow: list[Watched] = []
    by_turns(lambda: watched(PARENT, tmp_path, runs), lambda: watched(PARENT, tmp_path, slow))
    times = [when for when, _ in runs[0].output]
    clock = moments(runs[0])
    assert times[-1] - times[0] < (clock[-1] - clock[0]) * 0.8
    assert times == sorted(times)


def test_failure_ends_other_commands(tmp_path: Path) -> None:
    note = tmp_path / "process"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    forever = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(CommandFailedError, match="ended with 3"):
        by_turns(
            lambda: watched(forever, tmp_path, []),
            lambda: watched("import time; time.sleep(0.7); raise SystemExit(3)", tmp_path, []),
        )
    status = Path(f"/proc/{note.read_text('utf-8')}/status")
    deadline = time.monotonic() + 20
    while status.exists() and "State:\tZ" not in status.read_text("utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
