"""Combines records of concurrent requests to batches, and runs their forward passes in worker threads."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Classifier(Protocol):
    """A model that classifies preprocessed records; see `ServedModel`."""

    can_batch: bool

    def classify(self, items: Sequence[Any], device: int = 0) -> list[Any]:
        """Return one result per item."""
        ...


@dataclass(frozen=True, slots=True)
class _Group:
    """Records of one request, which are classified in the same pass."""

    model: Classifier
    items: Sequence[Any]
    results: Future[list[Any]] = field(default_factory=Future)


class Batcher:
    """A queue of preprocessed records, and the threads that classify them.

    A worker takes the oldest records and further ones of the same model that are queued. If the batch is not full and
    more records are being preprocessed, it waits for them for a limited time; a lone request never waits.

    Attributes:
        records: number of classified records.
        batches: number of batches that contained them.

    Args:
        max_batch: largest number of records in a pass.
        max_delay_seconds: longest wait for records that are being preprocessed.
    """

    def __init__(self, max_batch: int, max_delay_seconds: float) -> None:
        self.records = 0
        self.batches = 0
        self._max_batch = max_batch
        self._max_delay = max_delay_seconds
        self._condition = threading.Condition()
        self._queue: deque[_Group] = deque()
        self._expected: dict[int, int] = {}
        self._is_closed = False
        self._threads: list[threading.Thread] = []

    def start(self, workers: int, set_up: Callable[[], None]) -> None:
        """Start the threads, which call `set_up` first; thread `i` uses device `i`, modulo the number of devices."""
        for index in range(workers):
            thread = threading.Thread(target=self._run, args=(index, set_up), name=f"classify-{index}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def expect(self, model: Classifier) -> None:
        """Announce records of a request that are about to be preprocessed; `submit` or `cancel` must follow."""
        with self._condition:
            self._expected[id(model)] = self._expected.get(id(model), 0) + 1

    def cancel(self, model: Classifier) -> None:
        """Withdraw an announcement, because preprocessing failed."""
        with self._condition:
            self._arrived(model)

    def submit(self, model: Classifier, items: Sequence[Any]) -> Future[list[Any]]:
        """Queue announced records, at most `max_batch`; the result has one entry per record."""
        group = _Group(model, items)
        with self._condition:
            self._arrived(model)
            self._queue.append(group)
        return group.results

    def close(self) -> None:
        """Classify what is queued, and end the threads."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _arrived(self, model: Classifier) -> None:
        remaining = self._expected.get(id(model), 0) - 1
        if remaining > 0:
            self._expected[id(model)] = remaining
        else:
            self._expected.pop(id(model), None)
        self._condition.notify_all()

    def _run(self, device: int, set_up: Callable[[], None]) -> None:
        set_up()
        while batch := self._next_batch():
            # From here on a request cannot withdraw its records.
            started = [group for group in batch if group.results.set_running_or_notify_cancel()]
            if started:
                _classify(started, device)
                with self._condition:
                    self.records += sum(len(group.items) for group in started)
                    self.batches += 1

    def _next_batch(self) -> list[_Group]:
        """Wait for records and return a batch; empty after `close`."""
        with self._condition:
            while not self._queue:
                if self._is_closed:
                    return []
                self._condition.wait()
            batch = [self._queue.popleft()]
            model, deadline = batch[0].model, time.monotonic() + self._max_delay
            while model.can_batch:
                self._collect(batch)
                seconds = deadline - time.monotonic()
                is_full = sum(len(group.items) for group in batch) >= self._max_batch
                if is_full or seconds <= 0 or id(model) not in self._expected or self._is_closed:
                    break
                self._condition.wait(seconds)
            return batch

    def _collect(self, batch: list[_Group]) -> None:
        """Move queued groups of the same model into the batch, as far as they fit."""
        room = self._max_batch - sum(len(group.items) for group in batch)
        others: list[_Group] = []
        for _ in range(len(self._queue)):
            group = self._queue.popleft()
            if group.model is batch[0].model and len(group.items) <= room:
                batch.append(group)
                room -= len(group.items)
            else:
                others.append(group)
        self._queue.extend(others)


def _classify(batch: Sequence[_Group], device: int) -> None:
    """Run one forward pass; if it fails, one pass per group, so that no request fails because of another."""
    try:
        results = batch[0].model.classify([item for group in batch for item in group.items], device)
    except BaseException as error:  # noqa: BLE001 - a worker must survive any error of a model
        if len(batch) == 1:
            batch[0].results.set_exception(error)
            return
        logger.warning("A batch of %d requests failed and is repeated one by one: %s", len(batch), error)
        for group in batch:
            _classify([group], device)
        return
    start = 0
    for group in batch:
        group.results.set_result(results[start : start + len(group.items)])
        start += len(group.items)
