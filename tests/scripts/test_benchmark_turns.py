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


def watched(code: str, place: Path, found: list[Watched]) -> None:
    found.append(watch([sys.executable, "-c", code], os.environ, place))


def moments(run: Watched) -> list[float]:
    return [float(text) for _, text in run.output]


def test_one_command_at_a_time_runs(tmp_path: Path) -> None:
    one: list[Watched] = []
    other: list[Watched] = []
    began = time.monotonic()
    by_turns(lambda: watched(PARENT, tmp_path, one), lambda: watched(PARENT, tmp_path, other))
    passed = time.monotonic() - began
    assert len(moments(one[0])) == len(moments(other[0])) == 400
    merged = sorted([(when, "one") for when in moments(one[0])] + [(when, "other") for when in moments(other[0])])
    changes = sum(before[1] != after[1] for before, after in itertools.pairwise(merged))
    # 1.6 seconds of work each, in slices of half a second; in parallel they would alternate hundreds of times.
    assert 3 <= changes <= 100
    assert one[0].seconds + other[0].seconds <= passed
    assert one[0].seconds >= 1.6


def test_what_others_had_is_not_counted_in_a_lines_time(tmp_path: Path) -> None:
    runs: list[Watched] = []
    slow: list[Watched] = []
    by_turns(lambda: watched(PARENT, tmp_path, runs), lambda: watched(PARENT, tmp_path, slow))
    told = [when for when, _ in runs[0].output]
    clock = moments(runs[0])
    assert told[-1] - told[0] < (clock[-1] - clock[0]) * 0.8
    assert told == sorted(told)


def test_a_failure_ends_the_others(tmp_path: Path) -> None:
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
