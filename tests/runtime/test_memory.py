"""Retention of freed memory and thread wait policy, and their override by the environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune.runtime.memory import let_threads_spin

MIB = 2**20
# Allocates, fills and frees memory; prints how much of it the process still holds.
KEPT = """
import resource, sys
from pathlib import Path
from finetune.runtime.memory import keep_freed_memory
block, alike = int(sys.argv[1]), sys.argv[2] == "True"
keep_freed_memory(alike=alike)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
bytearray(b"x") * block
print((resident() - before) / block)
"""

# A thread frees its memory, and stays alive; prints how much the process grows when this thread allocates as much.
SHARED = """
import resource, sys, threading
from pathlib import Path
from finetune.runtime.memory import keep_freed_memory, share_one_heap
if sys.argv[1] == "True":
    share_one_heap()
keep_freed_memory(alike=True)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
def fill(count):
    return [bytearray(b"x") * 2**20 for _ in range(count)]
freed, end = threading.Event(), threading.Event()
def work():
    fill(48)
    freed.set()
    end.wait()
thread = threading.Thread(target=work)
thread.start()
freed.wait()
before = resident()
mine = fill(48)
print((resident() - before) / 2**20 / 48)
end.set()
thread.join()
"""
HANDED_BACK = """
import resource
from pathlib import Path
from finetune.runtime.memory import hand_back_freed_memory, keep_freed_memory
keep_freed_memory(alike=True)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
blocks = [bytearray(b"x") * 2**20 for _ in range(64)]
last = bytearray(b"x") * 2**20
del blocks
kept = resident() - before
hand_back_freed_memory()
print((resident() - before) / kept)
"""


def told(script: str, *arguments: str, **environment: str) -> float:
    """The number printed by a process."""
    command = [sys.executable, "-c", script, *arguments]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def kept(block: int, *, alike: bool, **environment: str) -> float:
    """The share of a freed block that a process still holds."""
    return told(KEPT, str(block), str(alike), **environment)


@pytest.mark.parametrize(("mib", "alike", "is_kept"), [(64, True, True), (24, False, True), (64, False, False)])
def test_freed_memory_is_kept_where_it_leaves_no_gaps(mib: int, alike: bool, is_kept: bool) -> None:
    share = kept(mib * MIB, alike=alike)
    assert share > 0.9 if is_kept else share < 0.1


@pytest.mark.parametrize(("shared", "more"), [(True, 0.1), (False, 0.9)])
def test_what_one_thread_frees_serves_another(shared: bool, more: float) -> None:
    found = told(SHARED, str(shared))
    assert found < more if shared else found > more


def test_what_was_kept_goes_back_when_it_is_told_to() -> None:
    assert told(HANDED_BACK) < 0.2


def test_the_heaps_that_the_user_asks_for_are_left() -> None:
    assert told(SHARED, "True", MALLOC_ARENA_MAX="8") > 0.9
    assert told(HANDED_BACK, MALLOC_ARENA_MAX="8") > 0.8


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_what_the_user_tells_the_allocator_is_left(name: str) -> None:
    assert kept(64 * MIB, alike=True, **{name: "131072"}) < 0.1


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "0"}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_spin_for_a_while_unless_the_user_says_how_they_wait(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr("finetune.runtime.memory.os.environ", environment)
    let_threads_spin()
    assert environment.get("GOMP_SPINCOUNT") == spins
