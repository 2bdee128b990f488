"""Records of concurrent requests share forward passes, in order of arrival."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune.serving.batching import Batcher

SECONDS = 30.0


@dataclass(eq=False)
class Doubler:
    """Doubles numbers and records its batches; the first pass waits until it is released."""

    can_batch: bool = True
    batches: list[list[int]] = field(default_factory=list)
    devices: set[int] = field(default_factory=set)
    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def classify(self, items: Sequence[Any], device: int = 0) -> list[Any]:
        self.batches.append(list(items))
        self.devices.add(device)
        self.entered.set()
        assert self.released.wait(SECONDS)
        if -1 in items:
            raise RuntimeError("a record that fails")
        return [2 * item for item in items]


@contextmanager
def batcher(max_batch: int = 4, delay: float = 0.0, workers: int = 1) -> Iterator[Batcher]:
    running = Batcher(max_batch, delay)
    running.start(workers, lambda: None)
    yield running
    running.close()


def test_queued_records_share_passes_in_order() -> None:
    model = Doubler()
    with batcher() as running:
        first = running.submit(model, [0])
        assert model.entered.wait(SECONDS)
        later = [running.submit(model, items) for items in ([1], [2, 3], [4], [5, 6, 7], [8])]
        model.released.set()
        assert first.result(SECONDS) == [0]
        assert [future.result(SECONDS) for future in later] == [[2], [4, 6], [8], [10, 12, 14], [16]]
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert (running.records, running.batches) == (9, 3)


def test_groups_are_not_split_and_a_large_one_is_not_overtaken_forever() -> None:
    model = Doubler()
    with batcher() as running:
        futures = [running.submit(model, [0])]
        assert model.entered.wait(SECONDS)
        futures += [running.submit(model, items) for items in ([1, 2], [3, 4, 5], [6, 7], [8, 9])]
        model.released.set()
        wait(futures, SECONDS)
    assert model.batches == [[0], [1, 2, 6, 7], [3, 4, 5], [8, 9]]


def test_models_do_not_share_passes() -> None:
    one, two = Doubler(), Doubler()
    two.released.set()
    with batcher() as running:
        futures = [running.submit(one, [0])]
        assert one.entered.wait(SECONDS)
        futures += [running.submit(model, [item]) for item, model in enumerate((one, two, one, two))]
        one.released.set()
        wait(futures, SECONDS)
    assert (one.batches, two.batches) == ([[0], [0, 2]], [[1, 3]])


def test_handler_that_cannot_batch_gets_single_requests() -> None:
    model = Doubler(can_batch=False)
    with batcher() as running:
        futures = [running.submit(model, [item]) for item in range(3)]
        model.released.set()
        assert [future.result(SECONDS) for future in futures] == [[0], [2], [4]]
    assert model.batches == [[0], [1], [2]]


def test_worker_waits_for_records_that_are_being_preprocessed() -> None:
    model = Doubler()
    model.released.set()
    with batcher(delay=SECONDS) as running:
        for _ in range(3):
            running.expect(model)
        first = running.submit(model, [0])
        running.cancel(model)
        assert not first.done()
        second = running.submit(model, [1])
        assert (first.result(SECONDS), second.result(SECONDS)) == ([0], [2])
    assert model.batches == [[0, 1]]


def test_worker_waits_for_a_limited_time() -> None:
    model = Doubler()
    model.released.set()
    with batcher(delay=0.01) as running:
        running.expect(model)
        running.expect(model)
        assert running.submit(model, [1]).result(SECONDS) == [2]
        running.cancel(model)


def test_error_of_one_request_does_not_affect_the_others() -> None:
    model = Doubler()
    with batcher() as running:
        running.submit(model, [0])
        assert model.entered.wait(SECONDS)
        good, bad, other = (running.submit(model, [item]) for item in (1, -1, 2))
        model.released.set()
        assert (good.result(SECONDS), other.result(SECONDS)) == ([2], [4])
        with pytest.raises(RuntimeError, match="a record that fails"):
            bad.result(SECONDS)
        assert running.submit(model, [3]).result(SECONDS) == [6]


def test_withdrawn_records_are_not_classified() -> None:
    model = Doubler()
    with batcher() as running:
        running.submit(model, [0])
        assert model.entered.wait(SECONDS)
        assert running.submit(model, [1]).cancel()
        last = running.submit(model, [2])
        model.released.set()
        assert last.result(SECONDS) == [4]
    assert model.batches == [[0], [2]]


def test_each_worker_uses_its_device() -> None:
    model = Doubler()
    with batcher(max_batch=1, workers=3) as running:
        futures = [running.submit(model, [item]) for item in range(3)]
        while len(model.devices) < 3:
            assert not model.released.wait(0.001)
        model.released.set()
        wait(futures, SECONDS)
    assert model.devices == {0, 1, 2}


def test_closing_classifies_what_is_queued() -> None:
    model = Doubler()
    running = Batcher(1, 0.0)
    futures = [running.submit(model, [item]) for item in range(5)]
    model.released.set()
    running.start(1, lambda: None)
    running.close()
    assert [future.result(0) for future in futures] == [[0], [2], [4], [6], [8]]
