"""Processes share features: each is computed once per host, and the batches are those of a single process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.data.bad_records import BadRecords
from finetune.data.loading.batches import Batch, Batches, BatchOptions
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.image_storage import SharedImages
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.data.record import Record
from finetune.distributed.host_memory import share_bytes
from finetune.distributed.shares import EveryNthBatch, ShardsOfBatches
from finetune.distributed.world import World
from finetune.errors import DataError, JobStopped
from finetune.features.batches import FeatureBatches
from finetune.features.exchange import FeatureExchange
from finetune.features.extractor import FeatureExtractor
from finetune.features.lengths import measure_lengths
from finetune.features.store import BAD, FeatureStore, StoreLimits
from finetune.features.store_index import SharedIndex, SharedStoreMemory
from tests.support.processes import run_processes
from tests.support.tiny import TinyBackbone, TinyReader, tiny_batches

CPU = torch.device("cpu")
COUNT, VIEWS, EPOCHS, DAMAGED, PROCESSES = 23, 2, 4, 7, 3
ENOUGH, SOME = 100_000, 500
"""Bytes for the features of all records, and of about half of them."""


@dataclass(frozen=True)
class CountingReader(TinyReader):
    """Counts the records that are read; one of them is damaged."""

    reads: list[int] = field(default_factory=list)

    def read(self, index: int) -> Record:
        self.reads.append(index)
        if index == DAMAGED:
            raise DataError(f"channel 'train': {self.key(index)} is gone")
        return super().read(index)


def shared_memory(world: World, memory_bytes: int, disk_bytes: int, folder: Path) -> SharedStoreMemory | None:
    if world.size == 1:
        return None
    index = share_bytes(world, SharedIndex.required_bytes(COUNT * VIEWS))
    memory, disk = share_bytes(world, memory_bytes), share_bytes(world, disk_bytes, folder)
    assert index is not None
    assert memory is not None
    assert disk is not None
    return SharedStoreMemory(index, memory, disk)


class Job:
    """The features of some records in one of the processes of a job."""

    def __init__(
        self,
        world: World,
        folder: Path,
        limits: tuple[int, int] | None = (ENOUGH, 0),
        *,
        replicated: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make batches of features; without `limits`, the processes share no memory and cache nothing."""
        backbone = TinyBackbone()
        backbone.module.eval()
        extractor = FeatureExtractor(backbone.split(2), 2, 1, CPU, contextlib.nullcontext)
        plain = tiny_batches(TinyReader(COUNT), training=True).dataset
        self.reader = CountingReader(COUNT)
        dataset = Dataset(self.reader, plain.indices, plain.label_map, plain.transform)
        options = BatchOptions(5, 0, shuffle=True, augment=True, workers=0, pin_memory=False)
        shared = None if limits is None else shared_memory(world, *limits, folder)
        self.store = FeatureStore(COUNT * VIEWS, StoreLimits(*(limits or (0, 0)), folder), {}, shared=shared)
        exchange = FeatureExchange(world, interrupted, CPU) if replicated and world.size > 1 else None
        batches = Batches(dataset, options, BadRecords("train", 1))
        self.features = FeatureBatches(batches, extractor, VIEWS, self.store, exchange)
        self.world = world

    def epochs(self, share: Share = WHOLE_BATCHES) -> list[Batch]:
        """The batches of some epochs; as in a job, the processes wait for each other."""
        batches: list[Batch] = []
        for epoch in range(EPOCHS):
            batches += self.features.iterate(epoch, 0, share)
            self.world.barrier()
        return batches

    def total_reads(self) -> int:
        """Number of records that all processes have read."""
        return self.world.sum_integers([len(self.reader.reads)])[0]


Rows = list[tuple[tuple[int, ...], Mapping[str, Tensor]]]


def rows_of(batches: list[Batch]) -> Rows:
    """Positions and features of each batch."""
    return [(batch.positions, batch.inputs) for batch in batches]


def assert_equal(found: Rows, expected: Rows) -> None:
    assert [positions for positions, _ in found] == [positions for positions, _ in expected]
    for (_, inputs), (_, expected_inputs) in zip(found, expected, strict=True):
        assert all(torch.equal(inputs[name], expected_inputs[name]) for name in expected_inputs)


def worlds(world: World) -> list[World]:
    """All processes on one host, and the last of them on another host."""
    last = world.rank == world.size - 1
    others = world.size - 1
    return [world, World(world.rank, world.size, 0 if last else world.rank, 1 if last else others)]


LIMITS = ((ENOUGH, 0), (SOME, 0), (SOME, ENOUGH), (0, 0))


def check_all_features(world: World, folder: Path) -> None:
    """Every process gets the batches of a single one, and all processes together compute each feature once."""
    expected = rows_of(Job(World(), folder).epochs())
    for hosts in worlds(world):
        for limits in (*LIMITS, None):
            job = Job(hosts, folder, limits, replicated=True)
            assert_equal(rows_of(job.epochs()), expected)
            assert sorted(np.flatnonzero(job.store.lengths == BAD)) == [DAMAGED, COUNT + DAMAGED]
            if limits and max(limits) == ENOUGH:
                assert job.total_reads() == COUNT * VIEWS
            elif not limits or limits == (0, 0):
                assert job.total_reads() == COUNT * EPOCHS - VIEWS


def check_shards(world: World, folder: Path) -> None:
    """The shards of all processes are those of a single one, and a host computes each feature once."""
    devices = 4
    whole = rows_of(Job(World(), folder).epochs(ShardsOfBatches(devices, World())))
    for hosts in worlds(world):
        share = ShardsOfBatches(devices, hosts)
        expected = [rows for number, rows in enumerate(whole) if number % devices in share.shards]
        for limits in (*LIMITS, None):
            job = Job(hosts, folder, limits)
            assert_equal(rows_of(job.epochs(share)), expected)
            if limits and max(limits) == ENOUGH and not hosts.spans_hosts:
                assert job.total_reads() == COUNT * VIEWS
                assert job.store.is_cached(np.arange(COUNT)).sum() == COUNT - 1


def check_dealt_batches(world: World, folder: Path) -> None:
    """For evaluation, each process computes the features of its batches only."""
    whole = rows_of(list(Job(World(), folder).features.iterate(0)))
    job = Job(world, folder)
    for _ in range(2):
        assert_equal(rows_of(list(job.features.iterate(0, 0, EveryNthBatch(world)))), whole[world.rank :: world.size])
        world.barrier()
    assert job.total_reads() == COUNT


def check_stop(world: World, folder: Path) -> None:
    """All processes stop in the same round if one of them is to stop."""
    checks = iter(range(100))
    job = Job(world, folder, replicated=True, interrupted=lambda: world.rank == 1 and next(checks) > 0)
    with pytest.raises(JobStopped):
        list(job.features.iterate(0))
    assert job.total_reads() < COUNT


def check_images(world: World, folder: Path) -> None:
    """An image stored by one process is found by the others, in memory or on disk, until the budget is exhausted."""
    index = share_bytes(world, SharedImages.required_bytes(8))
    memory, disk = share_bytes(world, 100), share_bytes(world, 150, folder)
    assert index is not None
    assert memory is not None
    assert disk is not None
    images = SharedImages(index, memory, disk, 8)
    stored = [
        images.put(position, torch.full((2, 3 + position, 3), position + 1, dtype=torch.uint8))
        for position in range(world.rank, 8, world.size)
    ]
    assert world.sum_integers([sum(stored)])[0] == len(images) < 8
    assert images.used_bytes <= 250
    for position in range(8):
        image = images.get(position)
        assert image is None or torch.equal(image, torch.full((2, 3 + position, 3), position + 1, dtype=torch.uint8))
    assert list(folder.glob("cache-*")) == []


def proportional_memory() -> int:
    """Bytes of this process, with each shared page divided by the number of processes that map it."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def check_memory(world: World, folder: Path) -> None:
    """All processes of a host together have one copy of the features."""
    features = torch.arange(1200.0).view(1200, 1).expand(1200, 10_000)
    size = features.numel() * features.element_size()
    index, memory = share_bytes(world, SharedIndex.required_bytes(len(features))), share_bytes(world, 2 * size)
    disk = share_bytes(world, 1, folder)
    assert index is not None
    assert memory is not None
    assert disk is not None
    before = world.sum_integers([proportional_memory()])[0]
    store = FeatureStore(len(features), StoreLimits(2 * size), {}, shared=SharedStoreMemory(index, memory, disk))
    for row in range(world.rank, len(features), world.size):
        store.put(np.asarray([row]), {"activation": features[row : row + 1]})
    world.barrier()
    for row in range(len(features)):
        assert store.gather(np.asarray([row]))["activation"][0, 0] == row
    world.barrier()
    grown = world.sum_integers([proportional_memory()])[0] - before
    assert grown < 1.5 * size, grown / size


def check_lengths(world: World, folder: Path) -> None:
    """Each process measures some texts; the batches do not change."""
    del folder
    plain = tiny_batches(TinyReader(COUNT), training=True).dataset
    reader = CountingReader(COUNT)
    dataset = Dataset(reader, plain.indices, plain.label_map, plain.transform)
    options = BatchOptions(5, 0, shuffle=True, augment=False, workers=2, pin_memory=False, length=len)
    expected = list(Batches(dataset, options, BadRecords("train", 1)).positions(0))
    reader.reads.clear()
    batches = Batches(dataset, options, BadRecords("train", 1))
    measure_lengths(batches, world, lambda: world.rank == 0)
    assert batches.length_grouping is not None
    assert not batches.length_grouping.is_complete
    reader.reads.clear()
    measure_lengths(batches, world, lambda: False)
    assert list(batches.positions(0)) == expected
    assert world.sum_integers([len(reader.reads)])[0] == COUNT


def check_everything(world: World, folder: Path) -> None:
    for check in (
        check_all_features,
        check_shards,
        check_dealt_batches,
        check_stop,
        check_images,
        check_memory,
        check_lengths,
    ):
        check(world, folder)
        world.barrier()


def test_processes_share_features_images_and_lengths(tmp_path: Path) -> None:
    run_processes(PROCESSES, check_everything, tmp_path)
