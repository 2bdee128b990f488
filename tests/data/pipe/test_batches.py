"""Batches of a stream are bitwise identical however they are prepared, and every fault is reported."""

from __future__ import annotations

import os
import random
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from finetune.config.parse import parse_hyperparameters
from finetune.data.bad_records import BadRecords
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodedRecord, DecodeOptions
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batch, BatchOptions
from finetune.data.pipe.batch_shares import StreamSharing
from finetune.data.pipe.batches import StreamBatches, StreamData
from finetune.data.pipe.fifo import PipeOptions
from finetune.data.pipe.source import StreamRecord, StreamSource
from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry
from finetune.distributed.shares import ShardsOfBatches
from finetune.distributed.world import World
from finetune.errors import DataError, JobStopped
from tests.support.coloured_images import COLORS, encode_image, make_image
from tests.support.stream_sharing import connect
from tests.support.stream_writers import fill, recordio

NAMES = tuple(COLORS)


def record(number: int, content: bytes | None = None) -> bytes:
    content = encode_image(make_image(NAMES[number % 3], number)) if content is None else content
    return recordio(struct.pack("<IfQQ", 0, number % 3, number, 0) + content)


def batches(
    folder: Path,
    workers: int = 0,
    allowed: int = 0,
    stop: threading.Event | None = None,
    sharing: StreamSharing | None = None,
    *,
    shared: bool = False,
) -> StreamBatches:
    spec = parse_hyperparameters({}).data
    pipe_options = PipeOptions("train", folder, folder / "state", 10.0, stop.is_set if stop else lambda: False)
    source = StreamSource(
        pipe_options, StreamLayout("train", "recordio", shared=shared), DecodeOptions("image-classification", spec)
    )
    transform = ImageTransform(ImageGeometry(16, 16, "bilinear"), "basic")
    data = StreamData(source, LabelMap(NAMES, multi_label=False), transform, None, None, buffer=5)
    options = BatchOptions(4, seed=3, shuffle=True, augment=True, workers=workers, pin_memory=False)
    return StreamBatches(data, options, BadRecords("train", allowed), sharing)


def bits(batches: list[Batch]) -> list[tuple[bytes, list[int], tuple[int, ...]]]:
    return [(batch.inputs["pixels"].numpy().tobytes(), batch.targets.tolist(), batch.positions) for batch in batches]


def test_stream_batches_are_identical_for_any_number_of_workers(tmp_path: Path) -> None:
    stream = b"".join(record(number) for number in range(21))
    results = []
    for workers in (0, 1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        fill(folder, stream)
        results.append(bits(list(batches(folder, workers).iterate(0))))
    assert results[0] == results[1] == results[2]
    assert [len(targets) for _, targets, _ in results[0]] == [4, 4, 4, 4, 3, 2]
    assert sorted(number for *_, positions in results[0] for number in positions) == list(range(21))


@pytest.mark.parametrize("used", [1, 3, 4])
def test_resumed_stream_batches_are_identical(tmp_path: Path, used: int) -> None:
    stream = b"".join(record(number) for number in range(18))
    fill(tmp_path, stream, epochs=2)
    whole = batches(tmp_path)
    before, states = [], []
    for batch in whole.iterate(0):
        before.append(batch)
        states.append(whole.position.state_dict() | {"identities": whole.position.state_dict()["identities"].clone()})
    again = batches(tmp_path)
    again.position.load_state_dict(states[used - 1])
    assert bits(list(again.iterate(0, used))) == bits(before[used:])


def test_skipped_records_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first record is decoded, to detect the stream's format; no skipped image is."""
    fill(tmp_path, b"".join(record(number) for number in range(18)), epochs=2)
    whole = batches(tmp_path)
    with closing(whole.iterate(0)) as iterator:
        state = [(next(iterator), whole.position.state_dict())[1] for _ in range(3)][-1]
        remaining = [number for batch in iterator for number in batch.positions]
    decoded, transformed = list[int](), list[Content]()
    decode, transform = StreamRecord.decode, ImageTransform.__call__

    def logged_decode(record: StreamRecord) -> DecodedRecord:
        decoded.append(record.number)
        return decode(record)

    def logged_transform(self: ImageTransform, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        transformed.append(content)
        return transform(self, content, randomness)

    monkeypatch.setattr(StreamRecord, "decode", logged_decode)
    monkeypatch.setattr(ImageTransform, "__call__", logged_transform)
    again = batches(tmp_path)
    again.position.load_state_dict(state)
    assert [number for batch in again.iterate(0, 3) for number in batch.positions] == remaining
    assert len(remaining) == len(transformed) == 6
    assert sorted(decoded) == sorted([0, *remaining])


def test_retained_records_are_from_the_last_epoch(tmp_path: Path) -> None:
    """The export check uses them, and in another pass the same number may refer to another record."""
    contents = [encode_image(make_image(NAMES[number % 3], number)) for number in range(20)]
    orders = list(range(20)), list(range(19, -1, -1))
    for epoch in range(2):
        os.mkfifo(tmp_path / f"train_{epoch}")

    def work() -> None:
        for epoch, order in enumerate(orders):
            (tmp_path / f"train_{epoch}").write_bytes(b"".join(record(number, contents[number]) for number in order))

    threading.Thread(target=work, daemon=True).start()
    loader = batches(tmp_path)
    for epoch, order in enumerate(orders):
        assert len(list(loader.iterate(epoch))) == 5
        samples = loader.sample_records(range(20), 8)
        assert [record.content for _, record in samples] == [contents[order[row]] for row, _ in samples]


def test_two_processes_resume_a_shared_stream(tmp_path: Path) -> None:
    stream = b"".join(record(number) for number in range(19))
    fill(tmp_path, stream, epochs=2)
    whole = batches(tmp_path)
    with closing(whole.iterate(0)) as iterator:
        before = [next(iterator) for _ in range(2)]
        state = whole.position.state_dict()
        expected = bits(list(iterator))
    loaders = [
        batches(tmp_path, workers, sharing=sharing)
        for workers, sharing in zip((0, 2), connect(tmp_path / "fifos", 2), strict=True)
    ]
    for loader in loaders:
        loader.position.load_state_dict(state)

    def share_of(rank: int) -> list[tuple[bytes, list[int], tuple[int, ...]]]:
        return bits(list(loaders[rank].iterate(0, len(before), ShardsOfBatches(2, World(rank, 2, rank, 2)))))

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(share_of, range(2)))
    assert (
        loaders[0].position.state_dict()["hash"]
        == loaders[1].position.state_dict()["hash"]
        == whole.position.state_dict()["hash"]
    )
    pairs = zip(*results, strict=True)
    joined = [tuple(first + second for first, second in zip(*pair, strict=True)) for pair in pairs]
    assert joined == expected


def test_bad_stream_records_are_skipped_and_counted(tmp_path: Path) -> None:
    stream = b"".join(record(number, b"\x89PNG\r\n\x1a\nno" if number == 5 else None) for number in range(12))
    fill(tmp_path, stream, epochs=2)
    result = list(batches(tmp_path, allowed=1).iterate(0))
    assert sum(len(batch.targets) for batch in result) == 11
    with pytest.raises(
        DataError, match=r"channel 'train': record [0-9a-f]{16} \(number 5, from 0\) is .*max_bad_records=0"
    ):
        list(batches(tmp_path).iterate(0))


def test_bad_record_counts_once_in_any_order_and_copies_count_separately(tmp_path: Path) -> None:
    """Also when a restart restores the ledger, and the stream in the middle of an epoch."""
    empty = b"\x89PNG\r\n\x1a\nno"
    stream = [record(0, empty), *map(record, range(1, 15)), record(0, empty), record(1, empty)]
    for epoch in range(4):
        os.mkfifo(tmp_path / f"train_{epoch}")

    def work() -> None:
        for epoch, order in enumerate((stream, stream[::-1], stream[8:] + stream[:8], stream)):
            (tmp_path / f"train_{epoch}").write_bytes(b"".join(order))

    threading.Thread(target=work, daemon=True).start()
    loader = batches(tmp_path, allowed=3)
    for epoch in range(2):
        assert sum(len(batch.targets) for batch in loader.iterate(epoch)) == 14
        assert len(loader._bad_records) == 3
    with closing(loader.iterate(2)) as iterator:
        next(iterator), next(iterator)
        position, ledger = loader.position.state_dict(), loader._bad_records.state_dict()
    again = batches(tmp_path, allowed=3)
    again.position.load_state_dict(position)
    again._bad_records.load_state_dict(ledger)
    list(again.iterate(2, 2))
    names = [key for key, _ in again._bad_records.listing()]
    assert len(names) == 3
    assert len({name[: len("record ") + 16] for name in names}) == 2


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_copies_of_a_bad_record_count_separately_in_any_shards(tmp_path: Path, shards: int) -> None:
    fill(tmp_path, b"".join([record(0, b"\x89PNG\r\n\x1a\nno")] * 4))
    loader = batches(tmp_path, allowed=4)
    assert len(list(loader.iterate(0, share=ShardsOfBatches(shards, World())))) == shards
    assert len(loader._bad_records) == 4


def test_records_of_an_undone_step_are_used_again(tmp_path: Path) -> None:
    fill(tmp_path, b"".join(record(number) for number in range(18)), epochs=2)
    loader = batches(tmp_path)
    with closing(loader.iterate(0)) as iterator:
        next(iterator)
        loader.position.begin_step()
        expected = bits([next(iterator), next(iterator)])
        loader.position.undo_step()
    again = batches(tmp_path)
    again.position.load_state_dict(loader.position.state_dict())
    assert bits(list(again.iterate(0, 1)))[:2] == expected


def test_undone_first_step_of_an_epoch_uses_no_record(tmp_path: Path) -> None:
    fill(tmp_path, b"".join(record(number) for number in range(18)), epochs=2)
    loader = batches(tmp_path)
    assert len(list(loader.iterate(0))) == 5
    loader.position.begin_step()
    with closing(loader.iterate(1)) as iterator:
        next(iterator)
    loader.position.undo_step()
    assert (loader.position.epoch, loader.position.used) == (1, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_early_closes_the_pipe_and_ends_the_threads(tmp_path: Path, workers: int) -> None:
    fill(tmp_path, b"".join(record(number) for number in range(300)), epochs=2)
    before = threading.active_count()
    loader = batches(tmp_path, workers)
    with closing(loader.iterate(0)) as iterator:
        assert len(next(iterator).targets) == 4
    # The thread that fills the pipes is still running.
    assert threading.active_count() <= before


def test_stop_request_ends_the_wait_for_a_batch(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()

    with pytest.raises(JobStopped):
        next(batches(tmp_path, stop=stop).iterate(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_empty_epoch_is_allowed_only_when_hosts_share_objects(tmp_path: Path, workers: int) -> None:
    """A pipe that is opened and closed at once, between two with records."""
    for epoch in range(3):
        os.mkfifo(tmp_path / f"train_{epoch}")

    def work() -> None:
        for epoch, count in enumerate((5, 0, 6)):
            (tmp_path / f"train_{epoch}").write_bytes(b"".join(map(record, range(count))))

    threading.Thread(target=work, daemon=True).start()
    loader = batches(tmp_path, workers, shared=True)
    assert [sum(len(batch.targets) for batch in loader.iterate(epoch)) for epoch in range(3)] == [5, 0, 6]
    (tmp_path / "alone").mkdir()
    fill(tmp_path / "alone", b"")
    with pytest.raises(DataError, match=r"channel 'train', epoch 0: the pipe is empty; .*S3 prefix"):
        list(batches(tmp_path / "alone", workers).iterate(0))


def test_class_without_readable_streamed_record_is_refused(tmp_path: Path) -> None:
    stream = b"".join(record(number, b"no image" if number % 3 == 1 else None) for number in range(9))
    fill(tmp_path, stream, epochs=2)
    loader = batches(tmp_path, allowed=9)
    assert len(list(loader.iterate(0))) == 3
    loader._data = replace(loader._data, class_counts=(3, 3, 3))
    with pytest.raises(DataError, match=rf"none of the 3 training records of class {NAMES[1]!r} can be read"):
        list(loader.iterate(1))
