"""Batches are prefetched in order by as many threads as needed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from finetune.data.loading.prefetch import Prefetcher
from finetune.runtime.worker_pool import WorkerPool


class Late(Future[int]):
    """Not ready until its result is awaited."""

    def __init__(self, crew: WorkerPool, number: int) -> None:
        super().__init__()
        self.crew, self.number = crew, number

    def result(self, timeout: float | None = None) -> int:
        self.crew.submit(lambda: self.set_result(self.number))
        return super().result(timeout)


def test_late_items_add_threads_up_to_the_maximum() -> None:
    supply = Prefetcher(1, 3)
    assert list(supply.ahead(range(12), Late)) == list(range(12))
    assert supply.size == 3
    assert supply.wait_seconds > 0
    sizes: set[int] = set()

    def seen(crew: WorkerPool, number: int) -> Future[int]:
        sizes.add(crew.size)
        return Late(crew, number)

    assert list(supply.ahead(range(12), seen)) == list(range(12))
    assert sizes == {3}


def test_fixed_number_of_threads_does_not_grow() -> None:
    supply = Prefetcher(1, 1)
    assert list(supply.ahead(range(12), Late)) == list(range(12))
    assert supply.size == 1


def test_items_in_time_add_no_threads() -> None:
    def at_once(crew: WorkerPool, number: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(number)
        return future

    supply = Prefetcher(1, 3)
    assert list(supply.ahead(range(20), at_once)) == list(range(20))
    assert supply.size == 1


@pytest.mark.parametrize("size", [0, 1])
def test_wait_seconds_include_items_and_their_preparation(size: int) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()

    def asked() -> Iterator[int]:
        for number in range(3):
            clock.now += 1
            yield number

    def prepare(number: int) -> int:
        clock.now += 10
        return number

    supply = Prefetcher(size, size, clock)
    if size:
        assert list(supply.ahead(asked(), lambda crew, number: crew.submit(lambda: prepare(number)))) == [0, 1, 2]
        assert supply.wait_seconds >= 3
    else:
        assert list(supply.alone(asked(), prepare)) == [0, 1, 2]
        assert supply.wait_seconds == 33
