"""Division of global batches into the shards of virtual devices, and of virtual devices among processes.

A job has a fixed number of virtual devices. Each of them computes one shard of every global batch, with its own random
numbers, so that results depend on the number of virtual devices but not on the number of processes. The idea is that of
EasyScale (arXiv 2208.14228).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from finetune.errors import UserError

BATCH_NORM_MINIMUM = 8
"""Records per shard below which batch normalization learns poorly; see docs/decisions/last-batches.md."""


@dataclass(frozen=True, slots=True)
class VirtualDevices:
    """The virtual devices of a job, which determine its result.

    Attributes:
        count: Number of shards of every batch.
        threads: Number of CPU threads that compute a shard, as the last bits depend on it; `None` if there is a single
            shard, or on GPUs.
        minimum: Minimum number of records of a shard; smaller batches have fewer shards.
    """

    count: int = 1
    threads: int | None = None
    minimum: int = 1


ONE_DEVICE = VirtualDevices()


def choose_virtual_devices(
    requested: int | None, saved: VirtualDevices | None, processes: int, threads: int | None, shard_limit: ShardLimit
) -> VirtualDevices:
    """Choose the virtual devices of a job: those of its checkpoint, of the request, or one for each process.

    Args:
        requested: The hyperparameter `virtual_devices`.
        saved: Those of the checkpoint that the job resumes from.
        processes: Number of processes.
        threads: Number of CPU threads of all processes together; `None` on GPUs.
        shard_limit: What the batches allow.

    Raises:
        UserError: The request contradicts the checkpoint.
    """
    if saved is not None and requested not in (None, saved.count):
        raise UserError(
            f"virtual_devices={requested}, but the checkpoint was written with {saved.count}, on which the result"
            " depends: leave virtual_devices out, use another checkpoint folder, or start from the beginning with"
            " resume=never."
        )
    count = saved.count if saved is not None else requested or min(processes, shard_limit.default_count)
    own_threads = None if threads is None or count == 1 else max(1, threads // count)
    if saved is not None and saved.threads is not None:
        own_threads = saved.threads
    return VirtualDevices(count, own_threads, shard_limit.minimum(count))


@dataclass(frozen=True, slots=True)
class ShardLimit:
    """Sizes of shards that make sense for a job.

    Attributes:
        batch_size: Records per batch.
        trains_batch_norm: Whether layers normalize by the statistics of a shard.
    """

    batch_size: int
    trains_batch_norm: bool

    @property
    def default_count(self) -> int:
        """Maximum number of shards per batch unless the user sets another one."""
        return max(1, self.batch_size // (BATCH_NORM_MINIMUM if self.trains_batch_norm else 1))

    def minimum(self, count: int) -> int:
        """Return the minimum number of records of a shard if whole batches have `count` shards."""
        return max(1, min(BATCH_NORM_MINIMUM, self.batch_size // count)) if self.trains_batch_norm else 1


def shards_of_rank(virtual_devices: int, world_size: int, rank: int) -> range:
    """Return the consecutive shards that a process computes; their number differs by at most one between processes.

    Args:
        virtual_devices: Number of virtual devices, and of shards per global batch.
        world_size: Number of processes; those in excess of `virtual_devices` have no shard.
        rank: The process.
    """
    return range(virtual_devices * rank // world_size, virtual_devices * (rank + 1) // world_size)


def rows_of_shard(records: int, virtual_devices: int, shard: int, minimum: int = 1) -> slice:
    """Return the rows of a shard in a global batch; the sizes of shards with records differ by at most one.

    Args:
        records: Number of records of the batch.
        virtual_devices: Number of shards.
        shard: The shard.
        minimum: Minimum number of records of a shard; a smaller batch is divided into fewer shards, at least one.
    """
    count = max(1, min(virtual_devices, records // minimum))
    if shard >= count:
        return slice(records, records)
    return slice(records * shard // count, records * (shard + 1) // count)


def shard_seed(seed: int, step: int, shard: int = 0) -> int:
    """Return the seed of all randomness of a shard in an optimizer step, mainly dropout; 63 bits.

    A job with a single virtual device has shard 0 only.
    """
    name = f"{seed}/{step}" if shard == 0 else f"{seed}/{step}/{shard}"
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"step").digest()
    return int.from_bytes(digest, "big") >> 1
