"""Where does the time go? Clocks that no step waits for."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

_T = TypeVar("_T")

PARTS = ("data", "forward", "backward", "update", "save", "evaluate")
"""What the time of training is divided into; the rest is start-up, export and what lies between them."""

_MOST_WAITING = 4096


class Step(NamedTuple):
    """How long a step took by the clock of the host, from the wait for its data to the next one's.

    Attributes:
        stretch: number of the stretch of steps without a pause, such as an epoch.
        size: numbers that went into it, to compare it by with others of its stretch.
    """

    stretch: int
    seconds: float
    size: int


class Timing:
    """Seconds by part of the work.

    Work on a GPU is measured between two marks in its own queue, which are read when the GPU has long passed them:
    nothing waits for it. Everything else is measured by the clock of the host.

    Attributes:
        seconds: by part, as far as it is known; `settle` completes it.
        steps: the last ones, but for the first of each stretch.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._waiting: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._step_began: float | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps: deque[Step] = deque(maxlen=10_000)
        self._stretch = 0

    @contextmanager
    def host(self, part: str) -> Iterator[None]:
        """Measure what the host does, or waits for."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began

    @contextmanager
    def device(self, part: str) -> Iterator[None]:
        """Measure what the device does; on a GPU without waiting for it."""
        if not self._on_gpu:
            with self.host(part):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # in torch
        begin.record()
        yield
        end.record()
        self._waiting.append((part, begin, end))
        self._read(wait=len(self._waiting) > _MOST_WAITING)

    def waited(self, items: Iterable[_T], part: str = "data") -> Iterator[_T]:
        """Pass items on, and count the time for which each was waited for."""
        iterator = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds[part] += time.perf_counter() - began
            yield item

    def step_done(self, size: int) -> None:
        """A step on so many numbers is done: the next one begins."""
        now = time.perf_counter()
        if self._step_began is not None:
            self.steps.append(Step(self._stretch, now - self._step_began, size))
        self._step_began = now

    def pause(self) -> None:
        """What comes now belongs to no step, such as an evaluation."""
        self._step_began = None
        self._stretch += 1

    def settle(self) -> dict[str, float]:
        """Seconds of every part; waits for the GPU."""
        self._read(wait=True)
        return self.so_far()

    def so_far(self) -> dict[str, float]:
        """Seconds of every part, as far as the GPU has told; waits for nothing."""
        return {part: self.seconds.get(part, 0.0) for part in PARTS}

    def _read(self, *, wait: bool) -> None:
        while self._waiting and (wait or self._waiting[0][2].query()):  # type: ignore[no-untyped-call]  # in torch
            part, begin, end = self._waiting.popleft()
            if wait:
                end.synchronize()
            self.seconds[part] += begin.elapsed_time(end) / 1000
