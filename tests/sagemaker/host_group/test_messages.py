"""Messages keep their content, and anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.sagemaker.failure import Failure
from finetune.sagemaker.host_group.first_failure import Report
from finetune.sagemaker.host_group.members import HostInfo
from finetune.sagemaker.host_group.messages import (
    LINE_LIMIT,
    Message,
    MessageError,
    decode,
    failure_content,
    failure_of_message,
    hello_message,
    hello_of,
    members_message,
    members_of,
    report_message,
    report_of,
)

HOST = HostInfo("algo-2", 8, "NVIDIA A10G", 24 * 10**9, "0.2.0", {"hyperparameter epochs": "ab"})


def test_hello_keeps_the_description() -> None:
    assert hello_of(decode(hello_message(HOST).encode())) == HOST
    assert hello_of(decode(hello_message(HostInfo("algo-2")).encode())) == HostInfo("algo-2")


def test_members_keep_their_order() -> None:
    hosts = (HOST, HostInfo("algo-1"))
    assert members_of(decode(members_message(hosts).encode())) == hosts


def test_report_is_on_the_clock_of_the_receiver() -> None:
    report = Report(Failure("algo-2: full", 137, expected=True), 95.0, is_consequence=True)
    received = report_of(decode(report_message(report, 100.0).encode()), 7.0)
    assert received == Report(report.failure, 2.0, is_consequence=True)


@pytest.mark.parametrize("failure", [None, Failure("Zürich\n\tdone", 3, expected=False)])
def test_failure_keeps_its_content(failure: Failure | None) -> None:
    assert failure_of_message(decode(Message("end", failure_content(failure)).encode())) == failure


def test_longest_failure_fits_into_a_line() -> None:
    failure = Failure("\N{PILE OF POO}" * (1 << 17), 1, expected=True)
    line = Message("failure", failure_content(failure)).encode()
    assert len(line) < LINE_LIMIT
    assert failure_of_message(decode(line)) == failure


@given(st.binary(max_size=64))
def test_anything_else_is_no_message(line: bytes) -> None:
    with pytest.raises(MessageError):
        decode(line)


@pytest.mark.parametrize(
    "line", [b'{"kind": "welcome"}', b'{"kind": ["hello"]}', b"[" * 100_000, b"{}", b"1" * 5000, b"[3]"]
)
def test_other_json_is_no_message(line: bytes) -> None:
    with pytest.raises(MessageError):
        decode(line)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"devices": 0},
        {"devices": True},
        {"devices": "4"},
        {"devices": 1 << 40},
        {"device_memory_bytes": -1},
        {"version": None},
        {"request": []},
        {"request": {"epochs": 3}},
    ],
)
def test_incomplete_hello_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MessageError):
        hello_of(Message("hello", {"host": {**asdict(HOST), **change}}))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (hello_of, Message("heartbeat")),
        (hello_of, Message("hello")),
        (members_of, Message("members")),
        (members_of, Message("members", {"hosts": [3]})),
        (failure_of_message, Message("failure", {"failure": "full"})),
        (failure_of_message, Message("failure", {"failure": {"message": "full", "exit_code": 0}})),
        (failure_of_message, Message("failure", {"failure": {"exit_code": 1}})),
        (lambda message: report_of(message, 0.0), Message("failure")),
        (
            lambda message: report_of(message, 0.0),
            Message("failure", {"failure": {"message": "full", "exit_code": 1}, "age": float("nan")}),
        ),
    ],
)
def test_incomplete_message_is_refused(read: Callable[[Message], object], message: Message) -> None:
    with pytest.raises(MessageError):
        read(message)
