"""Finds the processes of a simulated machine in `/proc`; Linux only."""

from __future__ import annotations

from pathlib import Path


def marked_processes(mark: bytes) -> list[int]:
    """Return running processes that inherited an environment variable, including those in new sessions.

    Args:
        mark: The variable as `NAME=VALUE`.
    """
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in variables.split(b"\0"):
            pids.append(int(entry.name))
    return pids


def children(pid: int) -> list[int]:
    """Return the running children of a process."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _parent(int(entry.name)) == pid]


def find_ranks(mark: bytes) -> list[int]:
    """Return the processes of a machine that train, by process ID.

    These are the processes without children that use at least half of the memory of the largest of them: a process per
    device has loaded the framework and the model, unlike the trackers and watchdogs that accompany it.

    Args:
        mark: The variable that marks the machine's processes.
    """
    processes = marked_processes(mark)
    parents = {_parent(pid) for pid in processes}
    memory = {pid: _resident_pages(pid) for pid in processes if pid not in parents}
    largest = max(memory.values(), default=0)
    return sorted(pid for pid, pages in memory.items() if 2 * pages >= largest)


def _parent(pid: int) -> int | None:
    """Return the parent's process ID; `None` for a process that has ended, also if it is a zombie."""
    try:
        # The name of the program, in parentheses, may contain anything.
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(parent)


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
