"""Requests per second, latency and processor time of the server, compared with AWS's model server."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.serving import load
from benchmarks.serving.load import Load
from benchmarks.serving.models import Served
from benchmarks.serving.servers import Server, aws_server, has_java, our_server, wait_until_ready
from benchmarks.table import begin, ratio, row, say

CLIENTS = (1, 8, 64)
_SIDES = ("ours", "AWS", "AWS, 1 thread per worker")


def measure(models: Sequence[Served], folder: Path, *, quick: bool) -> None:
    """Print a row per model and number of clients."""
    begin(
        "Requests",
        (
            "model, clients", "ours / AWS", "ours / AWS, 1 thread per worker", "requests/s", "p50, ms", "p99, ms",
            "CPU, ms per request", "p99: ours / AWS", "p99: ours / AWS, 1 thread per worker",
        ),
    )  # fmt: skip
    rounds, seconds = (1, 0.5) if quick else (3, 4.0)
    for served in models:
        with ExitStack() as running:
            servers = [running.enter_context(our_server(served))]
            if has_java():
                for threads in (None,) if quick else (None, 1):
                    side = aws_server(served, folder / f"{served.name}-{threads}", threads=threads)
                    servers.append(running.enter_context(side))
            for server in servers:
                wait_until_ready(server)
                asyncio.run(load.send(server.port, served.bodies, served.content_type, 4, seconds / 2))
            for clients in CLIENTS[:2] if quick else CLIENTS:
                results = [[_measure(served, server, clients, seconds) for server in servers] for _ in range(rounds)]
                row((f"{served.name}, {clients}", *_cells(results)))
    if not has_java():
        say("\nNot compared with AWS's multi-model-server: it needs Java (on Debian: default-jre-headless).")
    say(
        f"\n{rounds} rounds of {seconds:.1f} s per side ({', '.join(_SIDES)}, in this order), alternating; medians and"
        " the range of the ratios. The load generator shares the cores with the server. Requests of one record."
    )


def _measure(served: Served, server: Server, clients: int, seconds: float) -> Load:
    before = server.cpu_seconds
    result = asyncio.run(load.send(server.port, served.bodies, served.content_type, clients, seconds))
    return replace(result, cpu_seconds=server.cpu_seconds - before)


def _cells(results: Sequence[Sequence[Load]]) -> tuple[str, ...]:
    sides = list(zip(*results, strict=True))
    rates = [[one.rate for one in side] for side in sides]
    tails = [[one.percentile(99) for one in side] for side in sides]
    missing = ["-"] * (len(_SIDES) - len(sides))
    return (
        *(ratio(rates[0], other) for other in rates[1:]),
        *missing,
        _medians(rates, 1),
        _medians([[one.percentile(50) for one in side] for side in sides], 0),
        _medians(tails, 0),
        _medians([[one.cpu for one in side] for side in sides], 1),
        *(ratio(tails[0], other) for other in tails[1:]),
        *missing,
    )


def _medians(sides: Sequence[Sequence[float]], digits: int) -> str:
    return ", ".join(f"{statistics.median(side):.{digits}f}" for side in sides)
