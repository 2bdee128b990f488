"""Processes that are stopped, blocked or compute forever are detected after a while, others are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from finetune.launch.hangs import EndlessComputations, HangDetector, kill
from finetune.runtime.computations import Computation

BLOCKED = """
import ctypes
libc = ctypes.CDLL(None)
if libc.syscall({vfork}) == 0:
    libc.sleep(60)
    libc._exit(0)
"""
"""The parent of vfork(2) waits for its child in uninterruptible sleep."""


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as started:
        try:
            yield started
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


def wait_for_state(pid: int, state: str) -> None:
    deadline = time.monotonic() + 60.0
    while Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stopped_process_is_found_after_its_limit_and_ends_when_killed() -> None:
    clock = Clock()
    detector = HangDetector(stopped_seconds=20.0, clock=clock)
    with process("import time; time.sleep(60)") as sleeping:
        assert not detector.check({3: sleeping.pid})
        clock.seconds = 100.0
        assert not detector.check({3: sleeping.pid})
        sleeping.send_signal(signal.SIGSTOP)
        wait_for_state(sleeping.pid, "T")
        assert not detector.check({3: sleeping.pid})
        clock.seconds = 119.0
        assert not detector.check({3: sleeping.pid})
        clock.seconds = 121.0
        (hang,) = detector.check({3: sleeping.pid}).values()
        assert hang.reason == "was stopped by a signal, such as SIGSTOP, 21 s ago"
        kill(hang)
        assert sleeping.wait(60) == -signal.SIGKILL
        assert not detector.check({3: sleeping.pid})


def test_stopped_process_that_goes_on_is_forgotten() -> None:
    clock = Clock()
    detector = HangDetector(clock=clock)
    with process("import time; time.sleep(60)") as sleeping:
        sleeping.send_signal(signal.SIGSTOP)
        wait_for_state(sleeping.pid, "T")
        assert not detector.check({0: sleeping.pid})
        sleeping.send_signal(signal.SIGCONT)
        wait_for_state(sleeping.pid, "S")
        clock.seconds = 1000.0
        assert not detector.check({0: sleeping.pid})
        sleeping.send_signal(signal.SIGSTOP)
        wait_for_state(sleeping.pid, "T")
        assert not detector.check({0: sleeping.pid})


def test_blocked_process_without_progress_is_found() -> None:
    clock = Clock()
    detector = HangDetector(blocked_seconds=60.0, clock=clock)
    with process(BLOCKED.format(vfork=58)) as blocked:
        wait_for_state(blocked.pid, "D")
        assert not detector.check({0: blocked.pid})
        clock.seconds = 61.0
        (hang,) = detector.check({0: blocked.pid}).values()
        assert hang.reason.startswith("has been blocked in the kernel for 61 s")


def test_ended_process_is_not_hung() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        assert not HangDetector(0.0, 0.0).check({0: ended.pid})


def test_computation_is_endless_after_its_limit() -> None:
    clock = Clock()
    endless = EndlessComputations(clock)
    step, later = Computation("a training step", 7.0, 60.0), Computation("a training step", 70.0, 90.0)
    for clock.seconds in (0.0, 4.0, 8.0):
        assert not endless.check({0: step, 1: None}, {0: 100, 1: 101})
    assert not endless.check({0: later, 1: step}, {0: 100, 1: 101})
    for _ in range(15):
        assert not endless.check({0: later, 1: step}, {0: 100, 1: 101})
        clock.seconds += 4.0
    hangs = endless.check({0: later, 1: step}, {0: 100, 1: 101})
    assert {rank: hang.process for rank, hang in hangs.items()} == {1: 101}
    assert hangs[1].reason == "has computed a training step for 60 s without an end"


def test_time_in_which_the_agent_was_suspended_does_not_count() -> None:
    clock = Clock()
    endless = EndlessComputations(clock)
    step = {0: Computation("a training step", 7.0, 60.0)}
    for clock.seconds in (0.0, 1.0, 4000.0, 8000.0):
        assert not endless.check(step, {0: 100})
