"""Statuses, memory and latency of the server under twice the load that it can answer, and afterwards."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Sequence

from benchmarks.serving import load
from benchmarks.serving.load import Answer, Load
from benchmarks.serving.models import Served
from benchmarks.serving.servers import Server, our_server, wait_until_ready
from benchmarks.table import begin, row, say

_NORMAL = 0.4
"""Requests per second before and after, relative to the capacity."""
_OVERLOAD = 2.0
_SECONDS_BEFORE, _SECONDS_AFTER = 20.0, 40.0
_WINDOW = 2.0
_MIB = 2**20


def measure(served: Served, minutes: float) -> None:
    """Print a row for a load of twice the capacity during `minutes`."""
    columns = ("model", "capacity, requests/s", "answers by status", "memory, MiB: before, first quarter, last quarter")
    begin("Overload", (*columns, "p99, ms: before, overload, after", "p99 is normal again after, s"))
    seconds = minutes * 60
    with our_server(served) as server:
        wait_until_ready(server)
        capacity = asyncio.run(load.send(server.port, served.bodies, served.content_type, 64, 10.0)).rate
        normal = _NORMAL * capacity
        phases = [(normal, _SECONDS_BEFORE), (_OVERLOAD * capacity, seconds), (normal, _SECONDS_AFTER)]
        answers, memory = asyncio.run(_send(served, server, phases))
    end = _SECONDS_BEFORE + seconds
    before = _p99(answers, 0.0, _SECONDS_BEFORE)
    tail = _p99(answers, end + _SECONDS_AFTER / 2, end + _SECONDS_AFTER)
    quarters = (
        (0.0, _SECONDS_BEFORE), (_SECONDS_BEFORE, _SECONDS_BEFORE + seconds / 4), (end - seconds / 4, end)
    )  # fmt: skip
    memory_cells = (f"{_memory(memory, *quarter):,.0f}" for quarter in quarters)
    statuses = Counter(answer.status for answer in answers)
    row(
        (
            served.name, f"{capacity:.1f}",
            ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items())), ", ".join(memory_cells),
            f"{before:.0f}, {_p99(answers, _SECONDS_BEFORE, end):.0f}, {tail:.0f}", _recovery(answers, end, before),
        )
    )  # fmt: skip
    say(
        f"\n{_SECONDS_BEFORE:.0f} s at {_NORMAL} times the capacity, {minutes:g} minutes at {_OVERLOAD:g} times, and"
        f" {_SECONDS_AFTER:.0f} s at {_NORMAL} times. The capacity is the rate of 64 clients before. Latency is that of"
        " answers with status 200, from the time at which a request was due. It is normal again with the first window"
        f" of {_WINDOW:g} s whose p99 is at most twice the one before."
    )


async def _send(
    served: Served, server: Server, phases: Sequence[tuple[float, float]]
) -> tuple[list[Answer], list[float]]:
    """Return the answers, and the server's memory in MiB for each second."""
    memory: list[float] = []

    async def sample() -> None:
        while True:
            memory.append(server.resident_bytes / _MIB)
            await asyncio.sleep(1.0)

    sampling = asyncio.create_task(sample())
    answers = await load.send_at_rates(server.port, served.bodies, served.content_type, phases)
    sampling.cancel()
    return answers, memory


def _p99(answers: Sequence[Answer], start: float, end: float) -> float:
    latencies = [answer.latency for answer in answers if start <= answer.when < end and answer.status == 200]
    return Load(end - start, latencies).percentile(99) if latencies else float("inf")


def _memory(memory: Sequence[float], start: float, end: float) -> float:
    return statistics.median(memory[int(start) : max(int(start) + 1, int(end))])


def _recovery(answers: Sequence[Answer], end: float, normal: float) -> str:
    """Seconds from the end of the overload to the first window with a normal latency."""
    for index in range(int(_SECONDS_AFTER / _WINDOW)):
        start = end + index * _WINDOW
        if _p99(answers, start, start + _WINDOW) <= 2 * normal:
            return f"{start - end:.0f}"
    return f"more than {_SECONDS_AFTER:.0f}"
