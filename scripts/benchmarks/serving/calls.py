"""Alternates calls of the handler in this process with requests to a server, and prints their durations as JSON.

python -m benchmarks.serving.calls PORT COUNT CONTENT_TYPE MODEL BODY...

The environment variables of the server's process are set before PyTorch is imported, so that both compute equally.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.runtime.memory import set_variables, share_one_heap

WARM_UP = 10


def main(port: int, count: int, content_type: str, model: Path, bodies: Sequence[bytes]) -> None:
    """Print milliseconds of calls and of the requests after them, and processor time in milliseconds of a call."""
    set_variables()
    share_one_heap()
    sides: tuple[list[float], list[float]] = ([], [])
    answers = (_handler(model, content_type), _client(port, content_type))
    cpu = 0.0
    for number in range(WARM_UP + count):
        for answer, milliseconds in zip(answers, sides, strict=True):
            began, cpu_before = time.perf_counter(), time.process_time()
            answer(bodies[number % len(bodies)])
            milliseconds.append((time.perf_counter() - began) * 1000)
            cpu += (time.process_time() - cpu_before) * 1000 if milliseconds is sides[0] else 0.0
    calls, requests = (side[WARM_UP:] for side in sides)
    sys.stdout.write(json.dumps([calls, requests, cpu / len(sides[0])]))


def _handler(folder: Path, content_type: str) -> Callable[[bytes], None]:
    from finetune.export.handler import load_handler

    handler = load_handler(folder)
    model = handler.model_fn(str(folder))

    def answer(body: bytes) -> None:
        handler.output_fn(handler.predict_fn(handler.input_fn(body, content_type), model), "application/json")

    return answer


def _client(port: int, content_type: str) -> Callable[[bytes], None]:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def answer(body: bytes) -> None:
        connection.request("POST", "/invocations", body, {"Content-Type": content_type})
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}")

    return answer


if __name__ == "__main__":
    main(
        int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]),
        [Path(name).read_bytes() for name in sys.argv[5:]],
    )  # fmt: skip
