"""Hosts with their own records know all keys and labels, and use each of their records once."""

from __future__ import annotations

import pytest

from finetune.config.hyperparameters import TaskName
from finetune.data.bad_records import BadRecords
from finetune.data.in_memory import InMemoryReader
from finetune.data.labels import LabelMap, build_label_map
from finetune.data.loading.batches import Batches, BatchOptions, HostShard
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.shares import Share
from finetune.data.readers.hosts_reader import HostsReader, list_records, readable_records
from finetune.data.record import Record
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry
from finetune.distributed.shares import EveryNthBatch, ShardsOfBatches
from finetune.distributed.world import World
from finetune.errors import DataError

TASK: TaskName = "image-classification"
COUNTS = (13, 5)


def own_reader(host: int) -> InMemoryReader:
    records = [
        Record(f"{host}/{n}", bytes([host, n]), ("shared" if n % 2 else f"of-{host}",)) for n in range(COUNTS[host])
    ]
    return InMemoryReader("train", TASK, records, [(f"{host}/left out", "is bad")])


def readers() -> list[HostsReader]:
    lists = [list_records(own_reader(host)) for host in range(2)]
    return [HostsReader(own_reader(host), lists, host) for host in range(2)]


def test_metadata_of_all_hosts_and_contents_of_one() -> None:
    for host, reader in enumerate(readers()):
        assert len(reader) == sum(COUNTS)
        assert [reader.key(index) for index in (0, 12, 13, 17)] == ["0/0", "0/12", "1/0", "1/4"]
        assert reader.left_out == (("0/left out", "is bad"), ("1/left out", "is bad"))
        assert build_label_map(reader, multi_label=False, num_classes=None).names == ("of-0", "of-1", "shared")
        assert readable_records(reader) == (range(13), range(13, 18))[host]
        own, other = ((0, 13), (13, 0))[host]
        assert reader.read(own).key == f"{host}/0"
        with pytest.raises(DataError, match=rf"channel 'train': {1 - host}/0 is on another host"):
            reader.read(other)


def batches(reader: HostsReader, *, shuffle: bool) -> Batches:
    names = ("of-0", "of-1", "shared")
    transform = ImageTransform(ImageGeometry(8, 8, "bilinear"), "none")
    dataset = Dataset(reader, tuple(range(len(reader))), LabelMap(names, multi_label=False), transform)
    host = HostShard(readable_records(reader), batches=4)
    options = BatchOptions(4, seed=5, shuffle=shuffle, augment=False, workers=0, pin_memory=False, host=host)
    return Batches(dataset, options, BadRecords("train", 0))


def world(host: int, local_rank: int) -> World:
    return World(2 * host + local_rank, 4, local_rank, 2, host, 2)


@pytest.mark.parametrize("trains", [True, False])
def test_processes_of_all_hosts_use_each_record_once(*, trains: bool) -> None:
    used: list[int] = []
    for host, reader in enumerate(readers()):
        loader = batches(reader, shuffle=trains)
        assert len(loader) == 4
        for local_rank in range(2):
            own = world(host, local_rank)
            share: Share = ShardsOfBatches(8, own) if trains else EveryNthBatch(own)
            lists = [list(positions) for positions in loader.share_of(share).select(loader.positions(epoch=1))]
            if trains:
                assert len(lists) == 2 * (4, 2)[host]
            assert {index for positions in lists for index in positions} <= set(readable_records(reader))
            used += [position for positions in lists for position in positions]
    assert sorted(used) == list(range(sum(COUNTS)))


def test_samples_are_records_of_this_host() -> None:
    loader = batches(readers()[1], shuffle=False)
    samples = loader.sample_records([0, 13, 5, 17, 15], 2)
    assert [(row, record.key) for row, record in samples] == [(1, "1/0"), (4, "1/2")]
