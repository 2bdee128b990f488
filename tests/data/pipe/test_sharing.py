"""Processes that share a stream get the records of a single process, and none waits for one that has exited."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune.config.content_types import StreamFormat
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.data.pipe.batch_shares import SingleProcess, StreamSharing
from finetune.distributed.shares import EveryNthBatch, ReplicatedBatches, ShardsOfBatches
from finetune.distributed.world import World
from finetune.errors import JobStopped
from tests.support.stream_sharing import connect, feed, read_shares, shares_of_epoch, source_of
from tests.support.stream_writers import recordio

IMAGES = b"".join(recordio(struct.pack("<IfQQ", 0, n % 3, n, 0) + b"\xff\xd8" + bytes(n * 7)) for n in range(21))
# The first row is the header and not a record; the last batch has fewer records than there are processes.
TEXTS = b"class,text\n" + b"".join(b'%d,"a ""text"", number %d"\n' % (n % 2, n) for n in range(22))
STREAMS: dict[StreamFormat, bytes] = {"recordio": IMAGES, "csv": TEXTS}
LARGE = b"".join(recordio(struct.pack("<IfQQ", 0, n % 3, n, 0) + bytes(100_000)) for n in range(200))
TIMEOUT = 60.0


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    (tmp_path / "pipes").mkdir()
    return tmp_path / "pipes"


def local_worlds(size: int) -> list[World]:
    return [World(rank, size, rank, size) for rank in range(size)]


def shards(world: World) -> Share:
    return ShardsOfBatches(5, world)


@pytest.mark.parametrize(("stream_format", "size"), [("recordio", 2), ("csv", 3)])
@pytest.mark.parametrize("kind", [shards, EveryNthBatch, ReplicatedBatches])
def test_processes_get_the_rows_of_the_batches_of_a_single_process(
    tmp_path: Path, pipes: Path, stream_format: StreamFormat, size: int, kind: Callable[[World], Share]
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for folder in (alone, pipes):
        feed(folder, STREAMS[stream_format], 2)
    expected = read_shares(source_of(alone, stream_format, threading.Event()), SingleProcess(), WHOLE_BATCHES, 2)

    def process(sharing: StreamSharing, world: World) -> list[list[Any]]:
        return read_shares(source_of(pipes, stream_format, threading.Event()), sharing, kind(world), 2)

    with ThreadPoolExecutor(size) as pool:
        results = list(pool.map(process, connect(tmp_path / "fifos", size), local_worlds(size), timeout=TIMEOUT))
    for epoch, (batches, checksum) in enumerate(expected):
        assert [result[epoch][1] for result in results] == [checksum] * size
        for number, (identities, _, [records]) in enumerate(batches):
            shares = [result[epoch][0][number] for result in results]
            assert [share[0] for share in shares] == [identities] * size
            parts = [part for _, rows, contents in shares for part in zip(rows, contents, strict=True)]
            assert all(contents == [records[row] for row in rows] for rows, contents in parts)
            prepared = [row for rows, _ in parts for row in rows]
            assert sorted(prepared) == sorted([*range(len(records))] * (size if kind is ReplicatedBatches else 1))


def test_evaluation_deals_whole_batches_in_turn() -> None:
    shares = [EveryNthBatch(world) for world in local_worlds(3)]
    owners = [[share.rows(number, [1, 2], share.local_rank) for share in shares] for number in range(4)]
    whole = [range(2)]
    assert owners == [[whole, [], []], [[], whole, []], [[], [], whole], [whole, [], []]]


def test_every_host_deals_the_shards_of_its_own_processes() -> None:
    """Two hosts with two processes each read the whole stream."""
    rows = [
        ShardsOfBatches(4, World(2 * host, 4, 0, 2, host, 2)).rows(0, list(range(8)), local_rank)
        for host in range(2)
        for local_rank in range(2)
    ]
    assert rows == [[range(2)], [range(2, 4)], [range(4, 6)], [range(6, 8)]]


@pytest.mark.parametrize("stream", [LARGE, IMAGES])
def test_end_of_a_receiving_process_counts_as_a_stop_request(tmp_path: Path, pipes: Path, stream: bytes) -> None:
    """Whether its FIFO is full, or the stream is silent."""
    feed(pipes, stream, 1, threading.Event(), pause_at=0.9)
    sender, receiver = connect(tmp_path / "fifos", 2)
    first, second = (ShardsOfBatches(2, world) for world in local_worlds(2))
    sources = [source_of(pipes, "recordio", threading.Event()) for _ in range(2)]

    def read() -> None:
        with pytest.raises(JobStopped):
            for _ in shares_of_epoch(sources[0], sender, first, 0):
                pass

    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read)
        shares = shares_of_epoch(sources[1], receiver, second, 0)
        pool.submit(lambda: next(shares)).result(TIMEOUT)
        shares.close()
        reading.result(TIMEOUT)


def test_processes_without_shards_may_end(tmp_path: Path, pipes: Path) -> None:
    """There are more processes than virtual devices."""
    feed(pipes, IMAGES, 1)
    sender, _ = connect(tmp_path / "fifos", 2)
    source = source_of(pipes, "recordio", threading.Event())
    assert len(list(shares_of_epoch(source, sender, ShardsOfBatches(1, World()), 0))) == 6


@pytest.mark.parametrize("stopped", [0, 1])
def test_stop_request_of_one_process_ends_the_waits_of_all(tmp_path: Path, pipes: Path, stopped: int) -> None:
    feed(pipes, IMAGES * 40, 1, threading.Event())
    sharings = connect(tmp_path / "fifos", 2)
    stops = [threading.Event(), threading.Event()]
    shares = [
        shares_of_epoch(source_of(pipes, "recordio", stop), sharing, ShardsOfBatches(2, world), 0)
        for stop, sharing, world in zip(stops, sharings, local_worlds(2), strict=True)
    ]

    def read(rank: int) -> int:
        received = 0
        with pytest.raises(JobStopped):
            for _ in shares[rank]:
                received += 1
                if rank == stopped and received == 2:
                    stops[rank].set()
        return received

    with ThreadPoolExecutor(2) as pool:
        assert min(pool.map(read, range(2), timeout=TIMEOUT)) >= 2
