"""Bad records are counted once each, listed, and rejected above the limit."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from finetune.data.bad_records import BadRecords
from finetune.errors import DataError


def test_first_bad_record_fails_with_limit_zero() -> None:
    with pytest.raises(DataError) as caught:
        BadRecords("train", 0).note("cats/a.jpg", "is an image that is cut off")
    message = str(caught.value)
    assert message.startswith("channel 'train': cats/a.jpg is an image that is cut off")
    assert "max_bad_records=0" in message


def test_bad_records_are_listed_up_to_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    records = BadRecords("train", 2)
    with caplog.at_level(logging.WARNING):
        records.note("b.jpg", "is empty")
        records.note("a.jpg", "is no image")
        records.note("b.jpg", "is empty")
    assert records.listing() == (("a.jpg", "is no image"), ("b.jpg", "is empty"))
    assert len(records) == 2
    assert len(caplog.records) == 2
    assert "b.jpg is empty" in caplog.text
    with pytest.raises(DataError, match=r"c\.jpg is empty .*number 3, max_bad_records=2"):
        records.note("c.jpg", "is empty")


def test_bad_records_are_restored_from_a_checkpoint() -> None:
    before = BadRecords("train", 2)
    before.note("a.jpg", "is empty")
    after = BadRecords("train", 1)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    after.note("a.jpg", "is empty")
    assert after.listing() == before.listing()
    with pytest.raises(DataError, match=r"b\.jpg"):
        after.note("b.jpg", "is empty")


def test_long_reason_is_truncated() -> None:
    with pytest.raises(DataError, match="max_bad_records") as caught:
        BadRecords("train", 0).note("a.jpg", "is damaged " * 500)
    assert len(str(caught.value)) < 700


def test_bad_records_are_thread_safe() -> None:
    records = BadRecords("train", 400)

    def note(first: int) -> None:
        for number in range(first, first + 200):
            records.note(f"{number:03}", "is empty")

    threads = [threading.Thread(target=note, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [key for key, _ in records.listing()] == [f"{number:03}" for number in range(400)]


def test_logging_of_many_bad_records_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    records = BadRecords("train", 10**6)
    for number in range(2000):
        records.note(f"{number}.jpg", "is empty")
    assert len(records.listing()) == 2000
    assert len(caplog.messages) == 22
    assert "(1000 of at most 1000000)" in caplog.messages[-1]
