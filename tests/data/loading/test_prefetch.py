"""Batches are prefetched in order by as many threads as needed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from finetune.data.loading.prefetch import Prefetcher
from finetune.runtime.worker_pool import WorkerPool


class Late(Future[int]):
    """Not ready until its result is awaited."""

    def __init__(self, pool: WorkerPool, number: int) -> None:
        super().__init__()
        self.pool, self.number = pool, number

    def result(self, timeout: float | None = None) -> int:
        self.pool.submit(lambda: self.set_result(self.number))
        return super().result(timeout)


def test_late_items_add_threads_up_to_the_maximum() -> None:
    prefetcher = Prefetcher(1, 3)
    assert list(prefetcher.prefetch(range(12), Late)) == list(range(12))
    assert prefetcher.size == 3
    assert prefetcher.wait_seconds > 0
    sizes: set[int] = set()

    def submit(pool: WorkerPool, number: int) -> Future[int]:
        sizes.add(pool.size)
        return Late(pool, number)

    assert list(prefetcher.prefetch(range(12), submit)) == list(range(12))
    assert sizes == {3}


def test_fixed_number_of_threads_does_not_grow() -> None:
    prefetcher = Prefetcher(1, 1)
    assert list(prefetcher.prefetch(range(12), Late)) == list(range(12))
    assert prefetcher.size == 1


def test_items_in_time_add_no_threads() -> None:
    def submit_finished(pool: WorkerPool, number: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(number)
        return future

    prefetcher = Prefetcher(1, 3)
    assert list(prefetcher.prefetch(range(20), submit_finished)) == list(range(20))
    assert prefetcher.size == 1


@pytest.mark.parametrize("size", [0, 1])
def test_wait_seconds_include_items_and_their_preparation(size: int) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()

    def items() -> Iterator[int]:
        for number in range(3):
            clock.now += 1
            yield number

    def prepare(number: int) -> int:
        clock.now += 10
        return number

    prefetcher = Prefetcher(size, size, clock)
    if size:
        assert list(prefetcher.prefetch(items(), lambda pool, number: pool.submit(lambda: prepare(number)))) == [
            0,
            1,
            2,
        ]
        assert prefetcher.wait_seconds >= 3
    else:
        assert list(prefetcher.run_inline(items(), prepare)) == [0, 1, 2]
        assert prefetcher.wait_seconds == 33
