"""Time that HTTP, threads and queues add to a request of a single client, compared with a call of the handler."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.calls import WARM_UP
from benchmarks.serving.models import Served
from benchmarks.serving.servers import our_server, wait_until_ready
from benchmarks.table import begin, row, say

_BODIES = 20
_EMPTY_HANDLER = """
def model_fn(folder):
    return None
def input_fn(body, content_type):
    return body
def predict_fn(data, model):
    return data
def output_fn(prediction, accept):
    return prediction
"""


def measure(models: Sequence[Served], folder: Path, *, quick: bool) -> None:
    """Print a row per model."""
    columns = ("model", "median, ms: handler, server, of the differences", "fastest tenth, ms: handler, server")
    begin("Overhead of a request", (*columns, "their difference, ms", "CPU, ms: handler, server"))
    count = 20 if quick else 200
    for served in (_without_model(folder), *models):
        handler, server, cpu = _measure(served, folder, count)
        differences = [request - call for call, request in zip(handler, server, strict=True)]
        middle = ", ".join(f"{statistics.median(side):.2f}" for side in (handler, server, differences))
        fast = [statistics.quantiles(side, n=10)[0] for side in (handler, server)]
        row((served.name, middle, ", ".join(f"{side:.2f}" for side in fast), f"{fast[1] - fast[0]:.2f}", cpu))
    say(
        f"\n{count} pairs: a call of the handler in the process of the client, then a request with the same body on a"
        " persistent connection. Other work on the machine disturbs the fastest tenth of each side the least."
    )


def _without_model(folder: Path) -> Served:
    """A handler that computes nothing: its requests take only the time of the server."""
    root = folder / "without-model"
    (root / "model" / "code").mkdir(parents=True)
    (root / "model" / "code" / "inference.py").write_text(_EMPTY_HANDLER, encoding="utf-8")
    return Served("a handler without a model", root, [b"text"], "text/plain")


def _measure(served: Served, folder: Path, count: int) -> tuple[list[float], list[float], str]:
    """Milliseconds of calls and of requests, and the processor time of one of each."""
    files = []
    for number, body in enumerate(served.bodies[:_BODIES]):
        files.append(folder / f"{served.name}-{number}")
        files[-1].write_bytes(body)
    with our_server(served) as server:
        wait_until_ready(server)
        command = (
            sys.executable, "-P", "-m", "benchmarks.serving.calls", str(server.port), str(count), served.content_type,
            str(served.root / "model"), *map(str, files),
        )  # fmt: skip
        before = server.cpu_seconds
        output = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE, check=True).stdout
        cpu = (server.cpu_seconds - before) / (WARM_UP + count) * 1000
    calls, requests, cpu_of_call = json.loads(output)
    return calls, requests, f"{cpu_of_call:.2f}, {cpu:.2f}"
