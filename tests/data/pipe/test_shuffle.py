"""The order of a stream is a function of seed and epoch, and a restart knows the remaining records."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.config.parse import parse_hyperparameters
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.formats.record_codecs import ExampleCodec
from finetune.data.loading.order import batch_bounds
from finetune.data.pipe.shuffle import StreamPosition, batch_records, shuffle_records
from finetune.data.pipe.source import StreamRecord, record_identity
from finetune.errors import DataError

CODEC = ExampleCodec(DecodeOptions("image-classification", parse_hyperparameters({}).data))


def records(contents: list[bytes]) -> list[StreamRecord]:
    return [
        StreamRecord(number, (content,), record_identity((content,)), CODEC) for number, content in enumerate(contents)
    ]


def numbered(count: int) -> list[StreamRecord]:
    return records([str(number).encode() for number in range(count)])


def identities_of(records: list[StreamRecord]) -> list[int]:
    return [record.identity for record in records]


def contents_of(records: list[StreamRecord]) -> list[bytes]:
    return [record.parts[0] for record in records]


@given(st.integers(0, 60), st.integers(2, 20), st.integers(0, 5), st.integers(0, 5))
def test_shuffling_is_a_deterministic_permutation(count: int, size: int, seed: int, epoch: int) -> None:
    once = [record.number for record in shuffle_records(numbered(count), size, seed, epoch)]
    assert sorted(once) == list(range(count))
    assert once == [record.number for record in shuffle_records(numbered(count), size, seed, epoch)]
    assert all(position >= number - size for position, number in enumerate(once))


def test_shuffling_depends_on_seed_and_epoch_unless_buffer_size_is_one() -> None:
    orders = {
        tuple(record.number for record in shuffle_records(numbered(40), 16, seed, epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    assert [record.number for record in shuffle_records(numbered(9), 1, 0, 0)] == list(range(9))


def test_first_record_does_not_wait_for_a_full_buffer() -> None:
    arrived: list[StreamRecord] = []

    def arriving() -> Iterator[StreamRecord]:
        for record in numbered(3000):
            arrived.append(record)
            yield record

    waits = [len(arrived) for _ in shuffle_records(arriving(), 1000, 0, 0)]
    assert waits[0] == 129
    assert waits[100] == 329
    assert max(taken - drawn for drawn, taken in enumerate(waits)) == 1001


def test_shuffle_buffer_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.pipe.shuffle.MAX_BUFFERED_BYTES", 4)
    order = [record.number for record in shuffle_records(records([b"ab"] * 30), 1000, 0, 0)]
    assert all(position >= number - 2 for position, number in enumerate(order))


@given(st.integers(0, 40), st.integers(1, 9))
def test_stream_batches_have_the_bounds_of_file_batches(count: int, size: int) -> None:
    bounds = [(group[0].number, group[-1].number + 1) for group in batch_records(numbered(count), size)]
    assert bounds == batch_bounds(count, size)


@given(st.integers(0, 40), st.integers(1, 9), st.data())
def test_remaining_records_are_batched_identically_after_any_batch(count: int, size: int, data: st.DataObject) -> None:
    whole = [[record.number for record in group] for group in batch_records(numbered(count), size)]
    done = data.draw(st.integers(0, len(whole)))
    remaining = numbered(count)[sum(map(len, whole[:done])) :]
    assert [[record.number for record in group] for group in batch_records(remaining, size)] == whole[done:]


@given(st.lists(st.binary(max_size=2), max_size=30), st.data())
def test_resuming_with_same_order_yields_the_remaining_records(stream: list[bytes], data: st.DataObject) -> None:
    used = data.draw(st.integers(0, len(stream)))
    before, after = StreamPosition(), StreamPosition()
    before.begin(3)
    before.use(identities_of(records(stream)[:used]))
    after.load_state_dict(before.state_dict())
    remaining = list(after.skip_used(records(stream), "train"))
    assert [record.number for record in remaining] == list(range(used, len(stream)))


@given(st.permutations(range(20)), st.integers(1, 19))
def test_resuming_with_another_order_uses_no_record_twice(order: list[int], used: int) -> None:
    position = StreamPosition()
    position.use(identities_of(numbered(20)[:used]))
    again = records([str(number).encode() for number in order])
    remaining = contents_of(list(position.skip_used(again, "train")))
    assert sorted(remaining, key=int) == [str(number).encode() for number in range(used, 20)]


def test_initial_position_can_be_saved() -> None:
    identities = StreamPosition().state_dict()["identities"]
    assert (identities.shape, identities.stride()) == ((0,), (1,))


def test_changed_order_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    position = StreamPosition()
    position.use(identities_of(numbered(3)))
    with caplog.at_level(logging.INFO, logger="finetune"):
        list(position.skip_used(numbered(5), "train"))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "skipped 3 records" in caplog.text
    with caplog.at_level(logging.INFO, logger="finetune"):
        list(position.skip_used(numbered(5)[::-1], "train"))
    assert "the record order differs" in caplog.text


def test_hosts_with_the_same_stream_must_read_the_same_records() -> None:
    position = StreamPosition("train")
    position.begin(2)
    position.compare([(5, 77), (5, 77)])
    with pytest.raises(DataError, match=r"channel 'train', epoch 3: the hosts received different records"):
        position.compare([(5, 77), (5, 78)])


def test_hosts_with_their_own_records_resume_at_their_own_positions() -> None:
    """The first host stores the positions of all hosts; only its own has identities."""
    streams = numbered(20), records([b"other %d" % number for number in range(20)])
    positions = [StreamPosition("train", host) for host in range(2)]
    for position, stream, used in zip(positions, streams, (6, 4), strict=True):
        position.begin(0)
        position.use(identities_of(stream[:used]))
    positions[0].ended = True
    for position in positions:
        position.compare([position.mark for position in positions])
    for host, used in enumerate((6, 4)):
        again = StreamPosition("train", host)
        again.load_state_dict(positions[0].state_dict())
        assert again.mark == positions[host].mark
        assert again.ended == (host == 0)
        remaining = list(again.skip_used(streams[host], "train"))
        assert remaining == streams[host][used:]
        again.use(identities_of(remaining))
        assert again.used == 20


@pytest.mark.parametrize("hosts", [None, [1], [[1]], [[1, "2"]], [[1.0, 2]]])
def test_invalid_positions_of_hosts_are_refused(hosts: object) -> None:
    position = StreamPosition("train", 0)
    with pytest.raises(ValueError, match="invalid stream positions of the hosts"):
        position.load_state_dict({**position.state_dict(), "hosts": hosts})
