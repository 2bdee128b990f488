"""Does a job keep the memory that it frees, and how do its threads wait, unless its environment says otherwise?"""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from finetune.job.process import let_threads_spin

PAGE = resource.getpagesize()
BLOCK = 64 * 2**20
# Far more than glibc keeps by itself, asked for, filled and freed; tells how much of it the process still has.
KEPT = f"""
from pathlib import Path
from finetune.job.process import keep_freed_memory
keep_freed_memory()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * {PAGE}
before = resident()
bytearray(b"x") * {BLOCK}
print(resident() - before)
"""


def kept(**environment: str) -> int:
    """Bytes that a process keeps of those that it freed."""
    command = [sys.executable, "-c", KEPT]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_kept_for_what_comes_next() -> None:
    assert kept() > 0.9 * BLOCK


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_what_the_user_tells_the_allocator_is_left(name: str) -> None:
    assert kept(**{name: "131072"}) < 0.1 * BLOCK


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "0"}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_spin_for_a_while_unless_the_user_says_how_they_wait(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr("finetune.job.process.os.environ", environment)
    let_threads_spin()
    assert environment.get("GOMP_SPINCOUNT") == spins
