"""Does a job keep the memory that it frees, and how do its threads wait, unless its environment says otherwise?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune.job.process import let_threads_spin

MIB = 2**20
# Asked for, filled and freed; tells how much of it the process still has.
KEPT = """
import resource, sys
from pathlib import Path
from finetune.job.process import keep_freed_memory
block, alike = int(sys.argv[1]), sys.argv[2] == "True"
keep_freed_memory(alike=alike)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
bytearray(b"x") * block
print((resident() - before) / block)
"""


def kept(block: int, *, alike: bool, **environment: str) -> float:
    """Share that a process keeps of a block that it freed."""
    command = [sys.executable, "-c", KEPT, str(block), str(alike)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(("mib", "alike", "is_kept"), [(64, True, True), (24, False, True), (64, False, False)])
def test_freed_memory_is_kept_where_it_leaves_no_gaps(mib: int, alike: bool, is_kept: bool) -> None:
    share = kept(mib * MIB, alike=alike)
    assert share > 0.9 if is_kept else share < 0.1


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
    monkeypatch.setattr("finetune.job.process.os.environ", environment)
    let_threads_spin()
    assert environment.get("GOMP_SPINCOUNT") == spins
