"""Process-wide settings: glibc allocator, spinning of OpenMP threads, and garbage collection during imports.

None of them changes results. The spinning of threads must be configured before torch is imported.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # from malloc.h
_MAX_BLOCK_EQUAL, _MAX_BLOCK_VARYING = 2**30, 2**25
"""Largest block kept by the allocator, for batches of equal and of varying size."""
_MAX_FREE = 2**31 - 1
_SPIN_COUNT = "1000"
_ALLOCATOR_VARIABLES = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX")
_WAIT_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_LIBRARY_VARIABLES = {
    # tokenizers would use its own thread pool even for a single text; the calling threads are enough.
    "TOKENIZERS_PARALLELISM": "false",
    # NumPy sets these while it imports OpenBLAS, and removes them after OpenBLAS has started its threads.
    "OPENBLAS_MAIN_FREE": "1",
    "GOTOBLAS_MAIN_FREE": "1",
    # scikit-learn, which transformers imports, sets these for OpenMP of Intel and LLVM; the job uses GNU OpenMP.
    "KMP_DUPLICATE_LIB_OK": "True",
    "KMP_INIT_AT_FORK": "FALSE",
}


def set_variables() -> None:
    """Set the environment variables that libraries read, unless they are set already.

    Must be called before the process has a second thread: setting a variable may move the environment in memory, and a
    thread that reads it at that time, as every library does when it is loaded, then reads freed memory.
    """
    set_spin_time()
    for name, value in _LIBRARY_VARIABLES.items():
        os.environ.setdefault(name, value)


def set_spin_time() -> None:
    """Set the spin time of OpenMP threads, unless the environment configures it."""
    if not any(name in os.environ for name in _WAIT_VARIABLES):
        # Spin for about 20 us, then sleep: enough to bridge two consecutive operations, and the most that a wait takes
        # from other work, such as decoding threads. By default they spin for milliseconds.
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def keep_freed_memory(*, equal_sizes: bool) -> bool:
    """Let glibc keep up to 2 GiB of freed memory for later allocations.

    Every step frees its activations and allocates as many again. By default glibc returns blocks of this size to the
    kernel, which has to zero every page when it is allocated again: a fifth of the time of a pass on a CPU.

    Args:
        equal_sizes: whether all batches have the same size: large blocks of varying sizes, as for texts, would
            fragment the heap, and the process would use a fifth more memory.

    Returns:
        Whether glibc accepted the setting; `False` without glibc or if the environment configures the allocator.
    """
    mallopt = _allocator_function("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MAX_BLOCK_EQUAL if equal_sizes else _MAX_BLOCK_VARYING)) and bool(
        mallopt(_TRIM_THRESHOLD, _MAX_FREE)
    )


def share_one_heap() -> bool:
    """Let all threads allocate from one heap, so that memory freed by one can be used by another.

    By default glibc gives each thread its own heap, and memory freed there by the threads of a pass is not available to
    the following steps. Must be called before other threads exist, since their heaps would stay.

    Returns:
        See `keep_freed_memory`.
    """
    mallopt = _allocator_function("mallopt")
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))


def release_freed_memory() -> bool:
    """Return freed memory to the kernel, between parts of a job with different block sizes; takes milliseconds.

    Returns:
        See `keep_freed_memory`.
    """
    trim = _allocator_function("malloc_trim")
    return trim is not None and bool(trim(0))


def _allocator_function(name: str) -> Callable[..., int] | None:
    """An allocator function, or `None` without glibc or if the environment configures the allocator."""
    if any(variable in os.environ for variable in _ALLOCATOR_VARIABLES):
        return None
    return getattr(ctypes.CDLL(None), name, None)


@contextmanager
def garbage_collection_disabled() -> Iterator[None]:
    """Disable the garbage collector during imports and freeze the imported objects.

    Imports create 300,000 objects and almost no garbage: collecting takes a third of a second. The objects are frozen
    because they live as long as the process. Does nothing if torch is already imported, since the heap may then
    contain objects that do not.
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
