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
from tests.support.stream_sharing import BATCH, feed, processes, source_of, take_part
from tests.support.stream_writers import recordio

IMAGES = b"".join(recordio(struct.pack("<IfQQ", 0, n % 3, n, 0) + b"\xff\xd8" + bytes(n * 7)) for n in range(21))
# The first row is the header and not a record; the last batch has fewer records than there are processes.
TEXTS = b"class,text\n" + b"".join(b'%d,"a ""text"", number %d"\n' % (n % 2, n) for n in range(22))
STREAMS = {"recordio": IMAGES, "csv": TEXTS}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Pipes for one process, pipes for several, and their rendezvous folder."""
    made = tmp_path / "alone", tmp_path / "shared", tmp_path / "table"
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.parametrize(("form", "ranks"), [("recordio", 2), ("csv", 3)])
def test_shares_add_up_to_the_batches_of_a_single_process(
    folders: tuple[Path, Path, Path], form: str, ranks: int
) -> None:
    alone, shared, table = folders
    feed(alone, STREAMS[form], 2)
    feed(shared, STREAMS[form], 2)
    source = source_of(alone, "csv" if form == "csv" else "recordio", threading.Event())
    expected: Any = json.loads(json.dumps(take_part(source, SingleProcess(), 2)))
    with processes(shared, table, form, ranks, 2) as started:
        found = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    for epoch, (batches, checksum) in enumerate(expected):
        assert [one[epoch][1] for one in found] == [checksum] * ranks
        dealt = [one[epoch][0] for one in found]
        assert {len(one) for one in dealt} == {len(batches)}
        for whole, *parts in zip(batches, *dealt, strict=True):
            assert [record for part in parts for record in part["share"]] == whole["share"]
            assert [part["identities"] for part in parts] == [whole["identities"]] * ranks


def test_share_sizes_differ_by_at_most_one() -> None:
    for count in range(3 * BATCH):
        for ranks in range(1, 6):
            table = LocalProcessGroup(Path("unused"), ranks)
            shares = [range(count)[table.share(count, rank)] for rank in range(ranks)]
            assert [number for share in shares for number in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("killed", [0, 1])
def test_exited_process_is_an_error(folders: tuple[Path, Path, Path], killed: int) -> None:
    _, shared, table = folders
    pause = threading.Event()
    feed(shared, IMAGES * 40, 99, pause)
    with processes(shared, table, "recordio", 2, 99) as started:
        assert [process.stdout.readline() for process in started if process.stdout] == ["batch\n"] * 2
        started[killed].kill()
        pause.set()
        told = started[1 - killed].communicate(timeout=120)[0].splitlines()[-1]
    if killed:
        assert told.startswith("failed: process 1 on this host")
    else:
        assert told.startswith("failed: channel 'train': the process on this host that reads the channel")


@pytest.mark.parametrize("first", [0, 1])
def test_stop_request_ends_the_wait_of_every_process(folders: tuple[Path, Path, Path], first: int) -> None:
    _, shared, table = folders
    feed(shared, IMAGES * 40, 99, threading.Event())
    with processes(shared, table, "recordio", 2, 99) as started:
        assert [process.stdout.readline() for process in started if process.stdout] == ["batch\n"] * 2
        # In sequence, since the first process may have exited before the other is signaled.
        for process in (started[first], started[1 - first]):
            process.terminate()
            time.sleep(0.3)
        assert [process.communicate(timeout=120)[0].splitlines()[-1] for process in started] == ["stopped"] * 2
