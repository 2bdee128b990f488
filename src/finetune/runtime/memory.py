"""How does a job's process use its machine: memory that is freed, threads that wait, garbage of imports?

None of it changes what is computed. How threads wait has to be said before torch is imported.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h
_ALIKE, _UNLIKE = 2**30, 2**25
"""Largest block that is kept, by whether batches are all of one size."""
_KEPT = 2**31 - 1
_SPINS = "1000"
_ALLOCATOR = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX")
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_READ_BY_LIBRARIES = {
    # tokenizers would run even a single text through a thread pool of its own, and the threads that call it are enough.
    "TOKENIZERS_PARALLELISM": "false",
    # NumPy sets these for the import of OpenBLAS and removes them afterwards, when OpenBLAS has started its threads.
    "OPENBLAS_MAIN_FREE": "1",
    "GOTOBLAS_MAIN_FREE": "1",
}


def set_variables() -> None:
    """Set the environment variables that libraries read, unless they are set already.

    Must be called before the process has a second thread: writing a variable may move the environment in memory, and a
    thread that reads it meanwhile, as every library does that is loaded, then reads freed memory.
    """
    let_threads_spin()
    for name, value in _READ_BY_LIBRARIES.items():
        os.environ.setdefault(name, value)


def let_threads_spin() -> None:
    """Let threads that compute wait for each other as it pays here, unless the environment says how they wait."""
    if not any(name in os.environ for name in _WAITING):
        # Spin for some 20 us, then sleep: long enough from one operation to the next, and beside other work, such as
        # threads that decode, a wait loses no more than that. By default they spin for milliseconds.
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def keep_freed_memory(*, alike: bool) -> bool:
    """Let glibc keep up to 2 GiB of freed memory for what is asked for next.

    Every step frees its activations and asks for as many again. By default glibc hands blocks as large as these back to
    the kernel, which has to fill every page with zeros when it comes again: a fifth of the time of a pass on a CPU.

    Args:
        alike: whether batches are all of one size: large blocks of ever other sizes, as texts need, would leave gaps,
            and the process would take a fifth more memory.

    Returns:
        whether there was a glibc that took it, and nothing in the environment that says otherwise.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _ALIKE if alike else _UNLIKE)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


def share_one_heap() -> bool:
    """Let all threads have their memory from one heap, so that what one frees serves another.

    By default glibc gives a thread a heap of its own, and what threads of a pass have freed there is of no use to the
    steps that follow. To be called before there are other threads, whose heaps would stay.

    Returns:
        see `keep_freed_memory`.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))


def hand_back_freed_memory() -> bool:
    """Hand back to the kernel what is kept, between parts of a job whose blocks differ; it takes milliseconds.

    Returns:
        see `keep_freed_memory`.
    """
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of the allocator, unless there is no glibc, or the environment says what it does."""
    if any(variable in os.environ for variable in _ALLOCATOR):
        return None
    return getattr(ctypes.CDLL(None), name, None)


@contextmanager
def no_search_for_garbage() -> Iterator[None]:
    """Imports make 300,000 objects and leave hardly any garbage: looking for some takes a third of a second.

    Nor is it looked for among them later, since they stay as long as the process; where they are there already, other
    objects may be about that do not.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
