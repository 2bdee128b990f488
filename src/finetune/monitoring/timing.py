"""Time measurement by part of training, without synchronizing steps."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

_T = TypeVar("_T")

PARTS = ("data", "exchange", "forward", "backward", "update", "save", "evaluate")
"""Parts of the training time; the rest is start-up, export and the time in between."""

_MAX_PENDING_EVENTS = 4096


class StepTiming(NamedTuple):
    """Duration of a step by the host's clock, from waiting for its data to waiting for the next.

    Attributes:
        segment: Number of the sequence of steps without a pause, such as an epoch.
        size: Number of input values, to compare it with other steps of its segment.
    """

    segment: int
    seconds: float
    size: int


class Timing:
    """Measures seconds by part of the work.

    GPU work is measured between two CUDA events, which are read after the GPU has passed them, without synchronizing.
    Everything else is measured by the host's clock.

    Attributes:
        seconds: Seconds by part, as far as known; `synchronize` completes them.
        steps: The most recent steps, except the first of each segment.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._pending_events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._step_start: float | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps: deque[StepTiming] = deque(maxlen=10_000)
        self._segment = 0

    @contextmanager
    def host(self, part: str) -> Iterator[None]:
        """Measure work or waiting time of the host."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    @contextmanager
    def device(self, part: str) -> Iterator[None]:
        """Measure work of the device, without synchronizing with a GPU."""
        if not self._on_gpu:
            with self.host(part):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # in torch
        begin.record()
        yield
        end.record()
        self._pending_events.append((part, begin, end))
        self._read(wait=len(self._pending_events) > _MAX_PENDING_EVENTS)

    def measure_waiting(self, items: Iterable[_T], part: str = "data") -> Iterator[_T]:
        """Yield the items, measuring the time spent waiting for each."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds[part] += time.perf_counter() - start
            yield item

    def step_done(self, size: int) -> None:
        """Finish a step with `size` input values, and start the next."""
        now = time.perf_counter()
        if self._step_start is not None:
            self.steps.append(StepTiming(self._segment, now - self._step_start, size))
        self._step_start = now

    def pause(self) -> None:
        """Pause for work outside of steps, such as an evaluation."""
        self._step_start = None
        self._segment += 1

    def synchronize(self) -> dict[str, float]:
        """Return the seconds of every part; synchronizes with the GPU."""
        self._read(wait=True)
        return self.snapshot()

    def snapshot(self) -> dict[str, float]:
        """Return the seconds of every part known so far, without synchronizing."""
        return {part: self.seconds.get(part, 0.0) for part in PARTS}

    def _read(self, *, wait: bool) -> None:
        while self._pending_events and (wait or self._pending_events[0][2].query()):  # type: ignore[no-untyped-call]  # in torch
            part, begin, end = self._pending_events.popleft()
            if wait:
                end.synchronize()
            self.seconds[part] += begin.elapsed_time(end) / 1000
