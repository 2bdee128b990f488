"""Retention of freed memory and thread wait policy, and their override by the environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune.runtime.memory import set_spin_time

MIB = 2**20
# Allocates, fills and frees memory; prints how much of it the process still holds.
KEPT = """
import resource, sys
from pathlib import Path
from finetune.runtime.memory import keep_freed_memory
block, equal_sizes = int(sys.argv[1]), sys.argv[2] == "True"
keep_freed_memory(equal_sizes=equal_sizes)
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
keep_freed_memory(equal_sizes=True)
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
RELEASED = """
import resource
from pathlib import Path
from finetune.runtime.memory import release_freed_memory, keep_freed_memory
keep_freed_memory(equal_sizes=True)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
blocks = [bytearray(b"x") * 2**20 for _ in range(64)]
last = bytearray(b"x") * 2**20
del blocks
retained = resident() - before
release_freed_memory()
print((resident() - before) / retained)
"""


def output_of(script: str, *arguments: str, **environment: str) -> float:
    """The number printed by a process."""
    command = [sys.executable, "-c", script, *arguments]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def retained_mib(block: int, *, equal_sizes: bool, **environment: str) -> float:
    """The share of a freed block that a process still holds."""
    return output_of(KEPT, str(block), str(equal_sizes), **environment)


@pytest.mark.parametrize(("mib", "equal_sizes", "is_kept"), [(64, True, True), (24, False, True), (64, False, False)])
def test_freed_blocks_up_to_the_limit_are_kept(mib: int, equal_sizes: bool, is_kept: bool) -> None:
    share = retained_mib(mib * MIB, equal_sizes=equal_sizes)
    assert share > 0.9 if is_kept else share < 0.1


@pytest.mark.parametrize(("shared", "more"), [(True, 0.1), (False, 0.9)])
def test_memory_freed_by_a_thread_is_reused_by_another(shared: bool, more: float) -> None:
    growth = output_of(SHARED, str(shared))
    assert growth < more if shared else growth > more


def test_freed_memory_is_released() -> None:
    assert output_of(RELEASED) < 0.2


def test_arena_setting_of_the_user_is_respected() -> None:
    assert output_of(SHARED, "True", MALLOC_ARENA_MAX="8") > 0.9
    assert output_of(RELEASED, MALLOC_ARENA_MAX="8") > 0.8


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_allocator_settings_of_the_user_are_respected(name: str) -> None:
    assert retained_mib(64 * MIB, equal_sizes=True, **{name: "131072"}) < 0.1


@pytest.mark.parametrize(
    ("options", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "0"}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_wait_policy_of_the_user_is_respected(
    options: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(options)
    monkeypatch.setattr("finetune.runtime.memory.os.environ", environment)
    set_spin_time()
    assert environment.get("GOMP_SPINCOUNT") == spins
