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


def test_future_returns_result_or_raises() -> None:
    with closing(WorkerPool(2)) as pool:
        assert [pool.submit(lambda n=n: n * n).result() for n in range(5)] == [0, 1, 4, 9, 16]  # type: ignore[misc]  # mypy cannot infer a default
        broken = pool.submit(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            broken.result()
        assert pool.submit(lambda: "still there").result() == "still there"


def test_only_workers_are_limited_to_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with closing(WorkerPool(2)) as pool:
            together = threading.Barrier(2)

            def look() -> int:
                together.wait()
                return torch.get_num_threads()

            looks = [pool.submit(look), pool.submit(look)]
            assert [look.result() for look in looks] == [1, 1]
            seen: list[int] = []
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()
            assert (torch.get_num_threads(), seen) == (3, [3])
    finally:
        torch.set_num_threads(before)


def test_close_cancels_pending_calls() -> None:
    pool = WorkerPool(1)
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return go_on.wait(60) and pool.stopping.wait(60)

    first, second = pool.submit(wait), pool.submit(lambda: True)
    begun.wait()
    go_on.set()
    pool.close()
    assert first.result() is True
    with pytest.raises(CancelledError):
        second.result()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data-")]


def test_pool_grows() -> None:
    with closing(WorkerPool(1)) as pool:
        pool.grow(3)
        together = threading.Barrier(3)
        assert sorted(call.result() for call in [pool.submit(together.wait) for _ in range(3)]) == [0, 1, 2]
        assert pool.size == 3


def test_worker_may_close_the_pool() -> None:
    pool = WorkerPool(2)
    pool.submit(pool.close).result()
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data-")]


def test_threads_do_not_prevent_exit() -> None:
    code = """
import threading, time, torch
from finetune.runtime import worker_pool
worker_pool._CLOSE_TIMEOUT = 0.2
busy, stuck = worker_pool.WorkerPool(2), worker_pool.WorkerPool(1)
stuck.submit(threading.Event().wait)
for _ in range(1000):
    busy.submit(lambda: torch.rand(300, 300).sort() and time.sleep(0.01))
busy.submit(lambda: None)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, "")
