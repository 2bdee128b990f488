"""Division of global batches into the shards of virtual devices, and of virtual devices among processes.

A job has a fixed number of virtual devices. Each of them computes one shard of every global batch, with its own random
numbers, so that results depend on the number of virtual devices but not on the number of processes. The idea is that of
EasyScale (arXiv 2208.14228).
"""

from __future__ import annotations

import hashlib


def shards_of_rank(virtual_devices: int, world_size: int, rank: int) -> range:
    """Return the consecutive shards that a process computes; their number differs by at most one between processes.

    Args:
        virtual_devices: Number of virtual devices, and of shards per global batch.
        world_size: Number of processes; those in excess of `virtual_devices` have no shard.
        rank: The process.
    """
    return range(virtual_devices * rank // world_size, virtual_devices * (rank + 1) // world_size)


def rows_of_shard(records: int, virtual_devices: int, shard: int) -> slice:
    """Return the rows of a shard in a global batch of `records` records; shard sizes differ by at most one."""
    return slice(records * shard // virtual_devices, records * (shard + 1) // virtual_devices)


def shard_seed(seed: int, step: int, shard: int = 0) -> int:
    """Return the seed of all randomness of a shard in an optimizer step, mainly dropout; 63 bits.

    A job with a single virtual device has shard 0 only.
    """
    name = f"{seed}/{step}" if shard == 0 else f"{seed}/{step}/{shard}"
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"step").digest()
    return int.from_bytes(digest, "big") >> 1
