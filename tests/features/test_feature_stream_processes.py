"""Processes that exchange features of a stream train on the bits of a single process, and stop together."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune.data.loading.shares import Share
from finetune.data.pipe.batch_shares import StreamSharing
from finetune.data.pipe.sharing import SharedStreamReceiver, SharedStreamSender, make_fifos
from finetune.distributed.shares import EveryNthBatch, ReplicatedBatches, ShardsOfBatches
from finetune.distributed.world import World
from finetune.errors import DataError, JobStopped
from finetune.features.store import StoreLimits
from tests.features.test_feature_stream import LIMITS, batches, bits, features, stream_of
from tests.support.processes import run_processes

pytestmark = pytest.mark.slow

SIZE = 2
DAMAGED = stream_of(damaged=frozenset({3, 20, 21}), alike=5)


def connect(folder: Path, world: World) -> StreamSharing:
    if not world.local_rank:
        make_fifos(folder, world.size)
    world.barrier()
    receiver = SharedStreamReceiver(folder, world.local_rank) if world.local_rank else None
    world.barrier()
    return receiver or SharedStreamSender(folder, world.size)


def shards(world: World) -> Share:
    return ShardsOfBatches(2, world)


def run(world: World, folder: Path) -> None:
    """Write the results of all cases of one process."""
    results: dict[str, Any] = {}
    for name, limits in {"cached": LIMITS, "partly": StoreLimits(200), "uncached": StoreLimits(0)}.items():
        for kind in (ReplicatedBatches, EveryNthBatch, shards):
            case = folder / f"{name}-{kind.__name__}"
            if not world.rank:
                batches(case, DAMAGED, 5, augment=False)
            world.barrier()
            source, stream, split = features(case, limits, stream=b"", sharing=connect(case / "fifos", world))
            results[f"{name}-{kind.__name__}"] = bits(source, kind(world)), split.seen, stream.position.mark
    results["stops"] = [stopped_after(world, folder / f"stop-{rank}", rank) for rank in range(SIZE)]
    results["hosts"] = other_order(World(world.rank, SIZE, 0, 1, world.rank, SIZE), folder)
    (folder / str(world.rank)).write_bytes(pickle.dumps(results))


def stopped_after(world: World, folder: Path, stopped: int) -> int:
    """The number of batches that a process gets, if one of them is stopped after the first batch."""
    if not world.rank:
        batches(folder, stream_of() * 40, 1, augment=False)
    world.barrier()
    stop, received = threading.Event(), 0
    source, *_ = features(folder, LIMITS, stream=b"", sharing=connect(folder / "fifos", world), stop=stop)
    with pytest.raises(JobStopped):
        for _ in source.iterate(0, 0, ReplicatedBatches(world)):
            received += 1
            if received == 1 and world.rank == stopped:
                stop.set()
    return received


def other_order(world: World, folder: Path) -> bool:
    """Two hosts read their own pipes, one of them with another record."""
    host = folder / f"host-{world.rank}"
    source, *_ = features(host, LIMITS, stream=stream_of(alike=2 * world.host))
    with pytest.raises(DataError, match="epoch 1: the hosts received different records, or in another order"):
        list(source.iterate(0, 0, ReplicatedBatches(world)))
    return True


def test_exchanged_features_are_those_of_a_single_process(tmp_path: Path) -> None:
    run_processes(SIZE, run, tmp_path)
    results = [pickle.loads((tmp_path / str(rank)).read_bytes()) for rank in range(SIZE)]
    source, stream, split = features(tmp_path / "alone", LIMITS, stream=DAMAGED)
    expected = bits(source)
    assert len(expected) == 3 * 6
    for name in ("cached", "partly", "uncached"):
        for rank in range(SIZE):
            got, seen, mark = results[rank][f"{name}-ReplicatedBatches"]
            assert got == expected
            assert mark == stream.position.mark
            assert name != "cached" or set(seen.values()) == {1}
    computed: Counter[bytes] = sum((result["cached-ReplicatedBatches"][1] for result in results), Counter())
    assert computed == split.seen
    for name in ("cached", "partly", "uncached"):
        dealt = [results[rank][f"{name}-EveryNthBatch"][0] for rank in range(SIZE)]
        assert sorted(dealt[0] + dealt[1]) == sorted(expected)
        halves = zip(*(results[rank][f"{name}-shards"][0] for rank in range(SIZE)), strict=True)
        joined = [(a[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]) for a, b in halves]
        assert joined == expected
    for stopped in range(SIZE):
        assert results[0]["stops"][stopped] == results[1]["stops"][stopped] > 0
    assert all(result["hosts"] for result in results)
