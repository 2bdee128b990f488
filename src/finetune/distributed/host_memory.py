"""Memory that the processes of a job share within each host."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from finetune.distributed.world import World
from finetune.runtime.shared_bytes import SharedBytes, create_unnamed_file


class _Offer(NamedTuple):
    """A file of another process of this host, which can be opened through `/proc`."""

    process_id: int
    descriptor: int
    size: int


def share_bytes(world: World, size: int, folder: Path | None = None) -> SharedBytes | None:
    """Return zeros shared by the processes of each host; all processes of the job call this function together.

    The file in memory is no file in /dev/shm, which containers often limit to 64 MB.

    Args:
        world: The processes of the job.
        size: Number of bytes; that of the first process of each host counts.
        folder: Folder on a local disk that holds the bytes; `None` for memory.

    Returns:
        The bytes; `None` in all processes if some host does not allow to share them.

    Raises:
        ProcessLostError: Another process has ended.
    """
    own: _Offer | None = None
    if world.local_rank == 0:
        with suppress(OSError):
            size = max(1, size)
            own = _Offer(os.getpid(), create_unnamed_file(size, folder), size)
    offer = world.all_gather(own)[world.rank - world.local_rank]
    shared = None if offer is None else _open(offer, own)
    # The offered descriptor stays open until all processes of the host have opened the file.
    return None if world.any(shared is None) else shared


def _open(offer: _Offer, own: _Offer | None) -> SharedBytes | None:
    try:
        path = f"/proc/{offer.process_id}/fd/{offer.descriptor}"
        return SharedBytes(offer.descriptor if own else os.open(path, os.O_RDWR), offer.size)
    except (OSError, ValueError, OverflowError):
        return None
