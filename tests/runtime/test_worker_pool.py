"""A worker pool works in order, computes with one thread per worker, and ends when closed."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import closing

import pytest
import torch

from finetune.runtime.worker_pool import WorkerPool


def test_results_and_errors_come_to_whoever_asks() -> None:
    with closing(WorkerPool(2)) as crew:
        assert [crew.submit(lambda n=n: n * n).result() for n in range(5)] == [0, 1, 4, 9, 16]  # type: ignore[misc]  # mypy cannot infer a default
        broken = crew.submit(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            broken.result()
        assert crew.submit(lambda: "still there").result() == "still there"


def test_workers_compute_with_one_thread_and_everybody_else_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with closing(WorkerPool(2)) as crew:
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
    crew = WorkerPool(1)
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
    with closing(WorkerPool(1)) as crew:
        crew.grow(3)
        together = threading.Barrier(3)
        assert sorted(call.result() for call in [crew.submit(together.wait) for _ in range(3)]) == [0, 1, 2]
        assert crew.size == 3


def test_a_worker_may_be_the_one_that_closes() -> None:
    crew = WorkerPool(2)
    crew.submit(crew.close).result()
    crew.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data-")]


def test_threads_do_not_keep_the_interpreter_from_exiting() -> None:
    code = """
import threading, time, torch
from finetune.runtime import worker_pool as crew
crew._PATIENCE = 0.2
busy, stuck = crew.Crew(2), crew.Crew(1)
stuck.submit(threading.Event().wait)
for _ in range(1000):
    busy.submit(lambda: torch.rand(300, 300).sort() and time.sleep(0.01))
busy.submit(lambda: None)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, "")
