"""A crew of threads works in order, computes with one thread each, and is gone when it is closed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing

import pytest
import torch

from finetune.data.look_ahead import Crew, Supply


def test_results_and_errors_come_to_whoever_asks() -> None:
    with closing(Crew(2)) as crew:
        assert [crew.submit(lambda n=n: n * n).result() for n in range(5)] == [0, 1, 4, 9, 16]  # type: ignore[misc]  # mypy cannot infer a default
        broken = crew.submit(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            broken.result()
        assert crew.submit(lambda: "still there").result() == "still there"


def test_workers_compute_with_one_thread_and_everybody_else_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with closing(Crew(2)) as crew:
            together = threading.Barrier(2)

            def look() -> int:
                together.wait()
                return torch.get_num_threads()

            looks = [crew.submit(look), crew.submit(look)]
            assert [look.result() for look in looks] == [1, 1]
            seen: list[int] = []
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()
            assert (torch.get_num_threads(), seen) == (3, [3])
    finally:
        torch.set_num_threads(before)


def test_closing_drops_what_is_not_begun() -> None:
    crew = Crew(1)
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return go_on.wait(60) and crew.stopping.wait(60)

    first, second = crew.submit(wait), crew.submit(lambda: True)
    begun.wait()
    go_on.set()
    crew.close()
    assert first.result() is True
    with pytest.raises(CancelledError):
        second.result()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data-")]


def test_a_crew_grows() -> None:
    with closing(Crew(1)) as crew:
        crew.grow(3)
        together = threading.Barrier(3)
        assert sorted(call.result() for call in [crew.submit(together.wait) for _ in range(3)]) == [0, 1, 2]
        assert crew.size == 3


class Late(Future[int]):
    """Not ready before somebody waits for it."""

    def __init__(self, crew: Crew, number: int) -> None:
        super().__init__()
        self.crew, self.number = crew, number

    def result(self, timeout: float | None = None) -> int:
        self.crew.submit(lambda: self.set_result(self.number))
        return super().result(timeout)


def test_late_items_bring_threads_up_to_a_limit_which_are_kept_and_change_no_item() -> None:
    supply = Supply(1, 3)
    assert list(supply.ahead(range(12), Late)) == list(range(12))
    assert supply.size == 3
    assert supply.waited > 0
    sizes: set[int] = set()

    def seen(crew: Crew, number: int) -> Future[int]:
        sizes.add(crew.size)
        return Late(crew, number)

    assert list(supply.ahead(range(12), seen)) == list(range(12))
    assert sizes == {3}


def test_a_number_that_was_asked_for_is_kept_to() -> None:
    supply = Supply(1, 1)
    assert list(supply.ahead(range(12), Late)) == list(range(12))
    assert supply.size == 1


def test_items_in_time_bring_no_threads() -> None:
    def at_once(crew: Crew, number: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(number)
        return future

    supply = Supply(1, 3)
    assert list(supply.ahead(range(20), at_once)) == list(range(20))
    assert supply.size == 1


@pytest.mark.parametrize("size", [0, 1])
def test_waiting_is_counted_for_items_and_for_what_becomes_of_them(size: int) -> None:
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

    supply = Supply(size, size, clock)
    if size:
        assert list(supply.ahead(asked(), lambda crew, number: crew.submit(lambda: prepare(number)))) == [0, 1, 2]
        assert supply.waited >= 3
    else:
        assert list(supply.alone(asked(), prepare)) == [0, 1, 2]
        assert supply.waited == 33


def test_a_worker_may_be_the_one_that_closes() -> None:
    crew = Crew(2)
    crew.submit(crew.close).result()
    crew.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data-")]


def test_threads_do_not_keep_the_interpreter_from_exiting() -> None:
    code = """
import threading, time, torch
from finetune.data import look_ahead
look_ahead._PATIENCE = 0.2
busy, stuck = look_ahead.Crew(2), look_ahead.Crew(1)
stuck.submit(threading.Event().wait)
for _ in range(1000):
    busy.submit(lambda: torch.rand(300, 300).sort() and time.sleep(0.01))
busy.submit(lambda: None)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, "")
