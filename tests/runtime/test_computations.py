"""A process notes what it computes; the agent reads when it began, and how long it may take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.runtime import computations
from finetune.runtime.computations import (
    COUNT,
    FACTOR,
    MIN_SECONDS,
    Computation,
    computing,
    note_computations,
    read_computation,
    waiting,
)

PROCESS = """
import sys
from pathlib import Path
from finetune.runtime.computations import computing, note_computations
note_computations(Path(sys.argv[1]))
with computing("a training step"):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this process."""
    monkeypatch.setattr(computations, "_notes", [])
    note_computations(tmp_path / "0.computation")
    return tmp_path / "0.computation"


def current(file: Path) -> Computation:
    computation = read_computation(file)
    assert computation is not None
    return computation


def test_waiting_for_others_is_no_computation(notes: Path) -> None:
    assert read_computation(notes) is None
    with computing("a training step"):
        before = current(notes)
        with waiting(), waiting():
            assert read_computation(notes) is None
        after = current(notes)
        assert after.since >= before.since
        assert (before.kind, after.kind) == ("a training step", "a training step")
    with waiting():
        assert read_computation(notes) is None
    assert read_computation(notes) is None


def test_limit_follows_from_the_computations_of_a_kind(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0
    monkeypatch.setattr("time.monotonic", lambda: 1.0 + seconds)
    for number in range(COUNT):
        with computing("a training step"):
            assert current(notes).limit == float("inf")
            seconds += 0.1 * number
    with computing("a training step"):
        assert current(notes).limit == MIN_SECONDS
        seconds += 100.0
        with waiting():
            seconds += 1000.0
        seconds += 1.0
    with computing("a training step"):
        assert current(notes).limit == pytest.approx(100.0 * FACTOR)
    with computing("an evaluation batch"):
        assert current(notes) == Computation("an evaluation batch", 1.0 + seconds, float("inf"))


def test_notes_of_another_process_are_read_while_it_computes(tmp_path: Path) -> None:
    file = tmp_path / "1.computation"
    assert read_computation(file) is None
    file.touch()
    assert read_computation(file) is None
    command = [sys.executable, "-c", PROCESS, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        assert current(file).kind == "a training step"
        process.stdin.close()
        process.wait()
    assert read_computation(file) is None
