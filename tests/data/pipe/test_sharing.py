"""Processes that share a stream get the records of a single process, and none waits for one that has exited."""

from __future__ import annotations

import json
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.data.pipe.batch_shares import SingleProcess
from finetune.data.pipe.sharing import LocalProcessGroup
from tests.support.stream_sharing import BATCH, feed, processes, read_shares, source_of
from tests.support.stream_writers import recordio

pytestmark = pytest.mark.slow

IMAGES = b"".join(recordio(struct.pack("<IfQQ", 0, n % 3, n, 0) + b"\xff\xd8" + bytes(n * 7)) for n in range(21))
# The first row is the header and not a record; the last batch has fewer records than there are processes.
TEXTS = b"class,text\n" + b"".join(b'%d,"a ""text"", number %d"\n' % (n % 2, n) for n in range(22))
STREAMS = {"recordio": IMAGES, "csv": TEXTS}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Pipes for one process, pipes for several, and their rendezvous folder."""
    created = tmp_path / "alone", tmp_path / "shared", tmp_path / "group"
    for folder in created:
        folder.mkdir()
    return created


@pytest.mark.parametrize(("stream_format", "ranks"), [("recordio", 2), ("csv", 3)])
def test_shares_add_up_to_the_batches_of_a_single_process(
    folders: tuple[Path, Path, Path], stream_format: str, ranks: int
) -> None:
    alone, shared, group_folder = folders
    feed(alone, STREAMS[stream_format], 2)
    feed(shared, STREAMS[stream_format], 2)
    source = source_of(alone, "csv" if stream_format == "csv" else "recordio", threading.Event())
    expected: Any = json.loads(json.dumps(read_shares(source, SingleProcess(), 2)))
    with processes(shared, group_folder, stream_format, ranks, 2) as started:
        results = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    for epoch, (batches, checksum) in enumerate(expected):
        assert [result[epoch][1] for result in results] == [checksum] * ranks
        shares = [result[epoch][0] for result in results]
        assert {len(share) for share in shares} == {len(batches)}
        for whole, *parts in zip(batches, *shares, strict=True):
            assert [record for part in parts for record in part["share"]] == whole["share"]
            assert [part["identities"] for part in parts] == [whole["identities"]] * ranks


def test_share_sizes_differ_by_at_most_one() -> None:
    for count in range(3 * BATCH):
        for ranks in range(1, 6):
            group = LocalProcessGroup(Path("unused"), ranks)
            shares = [range(count)[group.share(count, rank)] for rank in range(ranks)]
            assert [number for share in shares for number in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("killed", [0, 1])
def test_exited_process_is_an_error(folders: tuple[Path, Path, Path], killed: int) -> None:
    _, shared, group_folder = folders
    pause = threading.Event()
    feed(shared, IMAGES * 40, 99, pause)
    with processes(shared, group_folder, "recordio", 2, 99) as started:
        assert [process.stdout.readline() for process in started if process.stdout] == ["batch\n"] * 2
        started[killed].kill()
        pause.set()
        output = started[1 - killed].communicate(timeout=120)[0].splitlines()[-1]
    if killed:
        assert output.startswith("failed: process 1 on this host")
    else:
        assert output.startswith("failed: channel 'train': the process on this host that reads the channel")


@pytest.mark.parametrize("first", [0, 1])
def test_stop_request_ends_the_wait_of_every_process(folders: tuple[Path, Path, Path], first: int) -> None:
    _, shared, group_folder = folders
    feed(shared, IMAGES * 40, 99, threading.Event())
    with processes(shared, group_folder, "recordio", 2, 99) as started:
        assert [process.stdout.readline() for process in started if process.stdout] == ["batch\n"] * 2
        # In sequence, since the first process may have exited before the other is signaled.
        for process in (started[first], started[1 - first]):
            process.terminate()
            time.sleep(0.3)
        assert [process.communicate(timeout=120)[0].splitlines()[-1] for process in started] == ["stopped"] * 2
