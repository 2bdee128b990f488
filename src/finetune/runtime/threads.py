"""Numbers of cores and of threads that compute a step on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def usable_cores() -> int:
    """Return the number of cores that this process may use; all cores where the platform cannot restrict them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def limit_threads(*, single_threaded: bool) -> Iterator[None]:
    """Compute in a single thread if `single_threaded`, otherwise in the usual number.

    Threads that share an operation synchronize at its end. If the operation takes microseconds, as in a head on cached
    features, this is most of its time.
    """
    usual = torch.get_num_threads()
    if single_threaded:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
