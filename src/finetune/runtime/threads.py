"""How many threads compute a step on a CPU?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def few_threads(*, alone: bool) -> Iterator[None]:
    """Compute in this thread alone, or in as many as usual.

    Threads that share an operation wait for each other behind it. Where it takes microseconds, as the head of a network
    does whose features are kept, that is most of its time.
    """
    usual = torch.get_num_threads()
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
