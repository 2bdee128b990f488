"""Sends requests over persistent connections, by concurrent clients or at a rate, and measures their latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import numpy as np

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Load:
    """Result of a measurement.

    Attributes:
        seconds: duration.
        latencies: seconds of each answered request.
        cpu_seconds: processor time of the processes that answered.
    """

    seconds: float
    latencies: Sequence[float]
    cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu(self) -> float:
        """Processor time per request in milliseconds."""
        return self.cpu_seconds / len(self.latencies) * 1000

    def percentile(self, percent: float) -> float:
        """Percentile of the latency in milliseconds."""
        return float(np.percentile(self.latencies, percent)) * 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered request.

    Attributes:
        when: seconds from the beginning to its scheduled time.
        latency: seconds from its scheduled time to the end of the answer.
        status: HTTP status; 0 if the connection was lost.
    """

    when: float
    latency: float
    status: int


async def send(port: int, bodies: Sequence[bytes], content_type: str, clients: int, seconds: float) -> Load:
    """Send requests to `/invocations` for `seconds`; each client sends its next one after the answer.

    Raises:
        RuntimeError: an answer has another status than 200.
    """
    numbers = count()
    deadline = time.monotonic() + seconds

    async def client() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        latencies = []
        while (began := time.monotonic()) < deadline:
            writer.write(_request(bodies[next(numbers) % len(bodies)], content_type))
            status, body = await _read_answer(reader)
            if status != 200:
                raise RuntimeError(f"{status} {body!r}")
            latencies.append(time.monotonic() - began)
        writer.close()
        return latencies

    began = time.monotonic()
    latencies = await asyncio.gather(*(client() for _ in range(clients)))
    return Load(time.monotonic() - began, [value for values in latencies for value in values])


async def send_at_rates(
    port: int, bodies: Sequence[bytes], content_type: str, phases: Sequence[tuple[float, float]]
) -> list[Answer]:
    """Send requests to `/invocations` at fixed times, whether or not earlier ones are answered.

    Args:
        port: port on the loopback interface.
        bodies: bodies, sent in turn.
        content_type: their type.
        phases: requests per second and seconds of each phase.

    Returns:
        All requests, in the order of their answers.
    """
    idle: list[_Connection] = []
    answers: list[Answer] = []
    began = time.monotonic()

    async def request(body: bytes, when: float) -> None:
        status = 0
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = _open(idle) or await asyncio.open_connection("127.0.0.1", port)
            writer.write(_request(body, content_type))
            status, _ = await _read_answer(reader)
            idle.append((reader, writer))
        answers.append(Answer(when, time.monotonic() - began - when, status))

    number, start = 0, 0.0
    async with asyncio.TaskGroup() as tasks:
        for rate, seconds in phases:
            for index in range(int(rate * seconds)):
                when = start + index / rate
                await asyncio.sleep(max(0.0, began + when - time.monotonic()))
                tasks.create_task(request(bodies[number % len(bodies)], when))
                number += 1
            start += seconds
    for _, writer in idle:
        writer.close()
    return answers


def _open(idle: list[_Connection]) -> _Connection | None:
    """Take an idle connection that the server has not closed in the meantime."""
    while idle:
        reader, writer = idle.pop()
        if not reader.at_eof():
            return reader, writer
        writer.close()
    return None


def _request(body: bytes, content_type: str) -> bytes:
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    header = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(header.partition(b"content-length:")[2].split(b"\r\n")[0])
    return int(header.split(b" ", 2)[1]), await reader.readexactly(length)
