"""Ends a process together with the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal

from finetune.errors import PlatformError

_PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that the kernel sends to a process when its parent has ended."""


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent has ended.

    Args:
        parent: Process id of the parent.

    Raises:
        PlatformError: The parent has already ended.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise PlatformError(f"Process {parent}, which started this one, has ended.")
