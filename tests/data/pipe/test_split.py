"""The records held out of a stream do not depend on its order; every record is on exactly one side."""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from threading import Event

import pytest

from finetune.config.hyperparameters import TaskName
from finetune.data.formats.codec import Codec
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.formats.record_codecs import ImageRecordCodec
from finetune.data.pipe.first_pass import scan_first_pass
from finetune.data.pipe.source import StreamRecord, record_identity
from finetune.data.pipe.split import StreamShare, StreamSplit
from finetune.errors import DataError
from tests.support.labelled_data import data_spec

CODEC = ImageRecordCodec(DecodeOptions("image-classification", data_spec()))


def record(number: int, content: bytes, label: int = 0, flag: int = 0) -> StreamRecord:
    parts = (struct.pack("<IfQQ", flag, label, number, 0) + content,)
    return StreamRecord(number, parts, record_identity(parts), CODEC)


class Stream:
    """The same records in every epoch, rotated by one each time."""

    channel = "train"
    task: TaskName = "image-classification"
    other_records = 0
    head = b""

    def __init__(self, records: Sequence[StreamRecord]) -> None:
        self.stop = Event()
        self.epochs = 0
        self._records = list(records)

    def stopped(self) -> bool:
        return self.stop.is_set()

    def codec_for(self, head: bytes) -> Codec:
        return CODEC

    def read_next(self) -> Generator[StreamRecord, None, None]:
        self.epochs += 1
        self._records.append(self._records.pop(0))
        yield from self._records


def sides(stream: Stream, split: StreamSplit) -> tuple[set[int], set[int]]:
    shares = [StreamShare(stream, split, held_out=side) for side in (False, True)]
    train, held_out = ({record.number for record in share.read_next()} for share in shares)
    assert [share.other_records for share in shares] == [len(held_out), len(train)]
    return train, held_out


def test_stream_split_is_a_constant_partition() -> None:
    stream = Stream([record(number, bytes([number % 256, number // 256])) for number in range(1000)])
    split = StreamSplit(0.2, seed=3)
    train, held_out = sides(stream, split)
    assert train | held_out == set(range(1000))
    assert not train & held_out
    assert 150 < len(held_out) < 250
    assert sides(stream, split) == (train, held_out)
    assert sides(stream, StreamSplit(0.2, seed=4)) != (train, held_out)
    assert stream.epochs == 6


def test_stream_split_keeps_equal_images_together() -> None:
    stream = Stream([record(number, bytes([number % 20]), label=number % 2) for number in range(200)])
    train, held_out = sides(stream, StreamSplit(0.5, seed=0))
    assert not {number % 20 for number in train} & {number % 20 for number in held_out}


def test_undecodable_records_stay_in_training() -> None:
    stream = Stream([record(number, b"", flag=9) for number in range(50)] + [record(50, b"a")])
    train = StreamShare(stream, StreamSplit(0.9, seed=1), held_out=False)
    assert {record.number for record in train.read_next()} >= set(range(50))


def test_empty_side_of_stream_split_is_an_error() -> None:
    stream = Stream([record(0, b"a")])
    with pytest.raises(DataError, match=r"none of its 1 records .*for validation with validation_fraction=1e-09"):
        list(StreamShare(stream, StreamSplit(1e-9, seed=0), held_out=True).read_next())


@pytest.mark.parametrize(
    ("fraction", "count", "few"), [(0.2, 4, True), (0.2, 40, False), (0.9, 40, True), (0.5, 10, False)]
)
def test_may_have_empty_side_for_few_records(fraction: float, count: int, few: bool) -> None:
    assert StreamSplit(fraction, seed=0).may_have_empty_side(count) is few


def test_first_pass_scan_counts_each_side_and_finds_every_class() -> None:
    stream = Stream([record(number, bytes([number]), label=number) for number in range(40)])
    split = StreamSplit(0.3, seed=2)
    train, held_out = sides(stream, split)
    scan = scan_first_pass(stream, split)
    assert (scan.records, scan.held_out) == (len(train), len(held_out))
    assert scan.classes == {str(number): int(number in train) for number in range(40)}


def test_first_pass_scan_stops_when_labels_are_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.pipe.first_pass.MAX_CLASSES", 10)
    stream = Stream([record(number, b"x", label=number) for number in range(1000)])
    with pytest.raises(DataError, match=r"channel 'train': there are at least 11 classes, .*label_column"):
        scan_first_pass(stream)
