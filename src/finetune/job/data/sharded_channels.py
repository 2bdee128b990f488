"""Channels in File mode whose objects are distributed over the hosts of a job (`ShardedByS3Key`).

All hosts know the keys and labels of all records, so that classes, counts and results are those of the whole channel.
Every host makes its own batches of its own records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from finetune.data.loading.batches import BatchOptions, HostShard
from finetune.data.loading.dataset import Subset
from finetune.data.loading.order import batch_bounds
from finetune.data.loading.split import Split, stratified_split
from finetune.data.readers.hosts_reader import HostsReader, list_records
from finetune.data.record import Reader
from finetune.distributed.world import World
from finetune.errors import DataError, UserError
from finetune.job.request import Request


def host_batch_size(batch_size: int, host: int, hosts: int) -> int:
    """Return the number of records that a host contributes to a batch.

    Raises:
        UserError: there are fewer records per batch than hosts.
    """
    if batch_size < hosts:
        raise UserError(
            f"batch_size={batch_size}, but {hosts} hosts have their own records (ShardedByS3Key): use at least {hosts}."
        )
    return batch_size * (host + 1) // hosts - batch_size * host // hosts


def check_world(request: Request, world: World) -> None:
    """Check that the processes of all hosts take part if hosts have their own records.

    Raises:
        UserError: records would be ignored.
    """
    hosts = len(request.files.resources.hosts)
    if request.sharded_purposes() and world.hosts != hosts:
        raise UserError(
            f"The channels {', '.join(sorted(request.sharded_purposes()))} are distributed over {hosts} hosts"
            f" (ShardedByS3Key), but the processes of {world.hosts} hosts train together: use FullyReplicated."
        )


def read_all_hosts(request: Request, readers: Mapping[str, Reader], world: World) -> dict[str, Reader]:
    """Extend the readers of distributed channels by the records of the other hosts; called by all processes.

    Raises:
        ProcessLostError: another process has ended.
    """
    extended: dict[str, Reader] = {}
    for purpose, reader in readers.items():
        extended[purpose] = reader
        if request.is_sharded(request.channels.by_purpose[purpose].name):
            extended[purpose] = HostsReader(reader, world.gather_from_hosts(list_records(reader)), world.host)
    return extended


def split_together(reader: Reader, fraction: float, seed: int, world: World) -> Split:
    """Split a channel as `stratified_split` does; if it is distributed, on every host by itself.

    Raises:
        DataError: no class of this host has two distinct contents.
        ProcessLostError: another process has ended.
    """
    if not isinstance(reader, HostsReader):
        return stratified_split(reader, fraction, seed)
    halves = world.gather_from_hosts(stratified_split(reader.own, fraction, seed))
    starts = [reader.records_of(host).start for host in range(reader.hosts)]
    return Split(
        tuple(start + index for start, half in zip(starts, halves, strict=True) for index in half.train),
        tuple(start + index for start, half in zip(starts, halves, strict=True) for index in half.validation),
    )


def check_hosts(request: Request, parts: Mapping[str, Subset]) -> None:
    """Check that every host has records of every part, since all take part in its evaluation.

    Raises:
        DataError: a host has none.
    """
    for purpose, part in parts.items():
        if not isinstance(part.reader, HostsReader):
            continue
        for host, name in enumerate(request.files.resources.hosts):
            if not _positions(part, part.reader, host):
                raise DataError(
                    f"channel {part.reader.channel!r} is distributed over the hosts (ShardedByS3Key), but {name} has no"
                    f" {purpose} records: use more objects than hosts, or FullyReplicated"
                )


def with_host_shard(options: BatchOptions, part: Subset, *, divides: bool) -> BatchOptions:
    """Return the options for batches of the records of this host.

    Args:
        options: options for batches of all records.
        part: the records.
        divides: whether the batches of all hosts together have `batch_size` records, as in training.
    """
    reader = part.reader
    if not isinstance(reader, HostsReader):
        return options
    sizes = [
        host_batch_size(options.batch_size, host, reader.hosts) if divides else options.batch_size
        for host in range(reader.hosts)
    ]
    positions = [_positions(part, reader, host) for host in range(reader.hosts)]
    most = max(len(batch_bounds(len(own), size)) for own, size in zip(positions, sizes, strict=True))
    return replace(options, batch_size=sizes[reader.host], host=HostShard(positions[reader.host], most))


def _positions(part: Subset, reader: HostsReader, host: int) -> range:
    """Return the positions of the records of a host, which are consecutive since indices ascend."""
    own = reader.records_of(host)
    start = sum(index < own.start for index in part.indices)
    return range(start, start + sum(index in own for index in part.indices))
