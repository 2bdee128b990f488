"""Sends requests from concurrent clients, each on one persistent connection, and measures their latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np


@dataclass(frozen=True, slots=True)
class Load:
    """Result of a measurement.

    Attributes:
        seconds: duration.
        latencies: seconds of each answered request.
        cpu_seconds: processor time of the process that answered.
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
            body = bodies[next(numbers) % len(bodies)]
            head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await _read_answer(reader)
            latencies.append(time.monotonic() - began)
        writer.close()
        return latencies

    began = time.monotonic()
    latencies = await asyncio.gather(*(client() for _ in range(clients)))
    return Load(time.monotonic() - began, [value for values in latencies for value in values])


async def _read_answer(reader: asyncio.StreamReader) -> None:
    header = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(header.partition(b"content-length:")[2].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not header.startswith(b"http/1.1 200"):
        raise RuntimeError(f"{header!r} {body!r}")
