"""Number of threads that compute a step on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
