"""Which connections the first host accepts, and for how long it waits."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from finetune.sagemaker.host_group.members import HostInfo
from finetune.sagemaker.host_group.messages import LINE_LIMIT, Message, hello_message
from tests.support.host_processes import LIMIT_SECONDS, HostProcess, Hosts, hosts_of_a_job, require_root

pytestmark = pytest.mark.slow

NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
TWO = NAMES[:2]
BINDS_HOSTS_FILE = 'mount --bind "$0" /etc/hosts && exec "$@"'
GARBAGE = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "binary": os.urandom(4096) + b"\n",
    "other JSON": b'{"kind": "hello", "host": "algo-2"}\n',
    "not a hello": b'{"kind": "stop"}\n',
    "nested": b"[" * 100_000 + b"\n",
    "huge line": b"x" * (2 * LINE_LIMIT),
    "half a line": b'{"kind": "hello"',
    "unknown host": hello_message(HostInfo("algo-9")).encode(),
    "first host": hello_message(HostInfo(NAMES[0])).encode(),
}


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with hosts_of_a_job(TWO) as hosts:
        yield hosts


def connect(hosts: Hosts) -> socket.socket:
    """A connection to the first host, once it listens."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            return socket.create_connection((NAMES[0], hosts.port), timeout=LIMIT_SECONDS)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def receive(connection: socket.socket, kind: str) -> dict[str, object]:
    """The first message of this kind."""
    with connection.makefile("rb") as lines:
        for line in lines:
            message = json.loads(line)
            if message["kind"] == kind:
                assert isinstance(message, dict)
                return message
    raise AssertionError(f"closed without {kind!r}")


def finish(first: HostProcess, *others: HostProcess) -> None:
    """Finish without a failure on all hosts."""
    for process in (first, *others):
        process.command("finish")
    assert first.exit() == 0
    assert [process.exit() for process in others] == [0] * len(others)


def test_garbage_never_disturbs(hosts: Hosts) -> None:
    first = hosts.start(NAMES[0])
    with ExitStack() as stack:
        for moment in ("before", "while running"):
            for content in GARBAGE.values():
                connection = stack.enter_context(connect(hosts))
                with suppress(OSError):
                    connection.sendall(content)
            if moment == "before":
                second = hosts.start(NAMES[1])
                second.wait_for("members")
        second.command("stop")
        first.wait_for("stop")
        assert [event["event"] for event in first.events] == ["started", "members", "stop"]
        finish(first, second)


def test_many_connections_never_disturb() -> None:
    with hosts_of_a_job(TWO, hello=1.0) as hosts, ExitStack() as stack:
        first = hosts.start(NAMES[0])
        for _ in range(400):
            stack.enter_context(connect(hosts))
        # The other host retries until the first connections are closed.
        second = hosts.start(NAMES[1])
        second.wait_for("members")
        finish(first, second)


def test_silent_connections_are_closed() -> None:
    with hosts_of_a_job(TWO, hello=0.5) as hosts:
        hosts.start(NAMES[0])
        with connect(hosts) as silent, connect(hosts) as slow:
            slow.sendall(b'{"kind": ')
            assert silent.recv(1) == b""
            assert slow.recv(1) == b""


def test_unknown_host_learns_the_reason(hosts: Hosts) -> None:
    hosts.start(NAMES[0])
    with connect(hosts) as connection:
        connection.sendall(GARBAGE["unknown host"])
        assert "'algo-9' is not among the other hosts of this job: 127.0.0.2" in str(receive(connection, "refusal"))


def test_host_that_returns_is_refused_and_the_job_goes_on() -> None:
    with hosts_of_a_job(NAMES) as hosts:
        first, second, third = hosts.start_all()
        again = hosts.start(NAMES[1])
        refused = again.wait_for("no members")
        assert refused["kind"] == "PlatformError"
        assert refused["message"].startswith("The job is running without this host: 127.0.0.2 had connected before")
        again.command("finish")
        assert again.exit() == 2
        assert not any(process.has_event("failure") for process in (first, second, third))
        finish(first, second, third)


def test_host_that_starts_again_before_all_have_connected_is_accepted() -> None:
    with hosts_of_a_job(NAMES) as hosts:
        first, killed = hosts.start(NAMES[0]), hosts.start(NAMES[1])
        killed.wait_for("started")
        with connect(hosts) as half_open:
            half_open.sendall(hello_message(HostInfo(NAMES[1], devices=7)).encode())
            receive(half_open, "heartbeat")
            killed.signal(signal.SIGKILL)
            second = hosts.start(NAMES[1], {"devices": 2})
            # The new connection replaces that of the same name, which would otherwise stay open.
            while half_open.recv(1024):
                pass
        third = hosts.start(NAMES[2])
        assert third.wait_for("members")["ranks"] == [3, 4]
        finish(first, second, third)


@pytest.mark.parametrize(
    ("info", "difference"),
    [
        ({"request": {"hyperparameter epochs": "b"}}, "differ in hyperparameter epochs"),
        ({"version": "0.3.0", "request": {"hyperparameter epochs": "a"}}, "runs version '0.3.0'"),
    ],
)
def test_hosts_with_different_requests_fail(info: dict[str, object], difference: str) -> None:
    with hosts_of_a_job(NAMES) as hosts:
        request = {"request": {"hyperparameter epochs": "a"}}
        processes = [hosts.start(NAMES[0], request), hosts.start(NAMES[1], info), hosts.start(NAMES[2], request)]
        for process in processes:
            failure = process.wait_for("no members")
            assert failure["kind"] == "UserError"
            assert difference in failure["message"]
            assert NAMES[1] in failure["message"]


def test_host_that_never_connects_fails_the_job() -> None:
    with hosts_of_a_job(NAMES, patience=3.0) as hosts:
        processes = [hosts.start(name) for name in NAMES[:2]]
        for process in processes:
            failure = process.wait_for("no members")
            assert failure["kind"] == "PlatformError"
            assert failure["message"].startswith(
                f"127.0.0.3 did not connect to port {hosts.port} of 127.0.0.1 within 3 s"
            )
            process.command("finish")
        assert [process.exit() for process in processes] == [2, 2]


def test_first_host_that_never_answers_is_named() -> None:
    with hosts_of_a_job(TWO, patience=1.0) as hosts:
        second = hosts.start(NAMES[1])
        failure = second.wait_for("no members")
        assert failure["kind"] == "PlatformError"
        assert failure["message"].startswith(
            f"127.0.0.1 could not be reached on port {hosts.port} within 1 s (Connection refused)"
        )


def test_name_that_never_resolves_is_named() -> None:
    with hosts_of_a_job(("algo-1.invalid", NAMES[1]), patience=1.0) as hosts:
        failure = hosts.start(NAMES[1]).wait_for("no members")
        assert failure["message"].startswith(f"algo-1.invalid could not be reached on port {hosts.port} within 1 s (")


def test_names_may_resolve_late(tmp_path: Path) -> None:
    require_root("ip", "unshare", "mount")
    known = tmp_path / "hosts"
    known.write_text("127.0.0.1 localhost\n", encoding="ascii")
    prefix = ("unshare", "--mount", "sh", "-c", BINDS_HOSTS_FILE, str(known))
    with hosts_of_a_job(("algo-1.invalid", "algo-2.invalid")) as hosts:
        first, second = (hosts.start(name, prefix=prefix) for name in hosts.names)
        for process in (first, second):
            process.wait_for("started")
        time.sleep(1.0)
        assert not second.has_event("no members")
        with known.open("a", encoding="ascii") as file:
            file.write("127.0.0.1 algo-1.invalid\n")
        assert first.wait_for("members")["address"] == second.wait_for("members")["address"] == "127.0.0.1"
        finish(first, second)


def test_late_host_receives_an_earlier_failure() -> None:
    with hosts_of_a_job(NAMES, late_start=600.0) as hosts:
        first, second = (hosts.start(name) for name in NAMES[:2])
        first.wait_for("started")
        first.command("finish Channel 'train' is empty.")
        second.wait_for("failure")
        second.command("finish")
        # The first host has failed, and waits for the third.
        third = hosts.start(NAMES[2])
        assert third.wait_for("no members")["message"] == "127.0.0.1: Channel 'train' is empty."
        third.command("finish")
        assert first.exit() == 1
        assert [process.exit() for process in (second, third)] == [1, 1]


@pytest.mark.parametrize("stopped", [False, True])
def test_first_host_stops_waiting_for_late_hosts(stopped: bool) -> None:
    with hosts_of_a_job(TWO, late_start=600.0 if stopped else 0.0) as hosts:
        first = hosts.start(NAMES[0])
        first.wait_for("started")
        if stopped:
            first.command("stop")
            first.wait_for("stop")
        first.command("finish Channel 'train' is empty.")
        assert first.exit() == 1


def test_host_that_does_not_finish_cannot_hold_the_others() -> None:
    with hosts_of_a_job(TWO, finish=1.0) as hosts:
        first, second = hosts.start_all()
        first.command("finish")
        assert first.exit() == 0
        # The processes of the second host are asked to end.
        second.wait_for("stop")
        second.command("finish")
        assert second.exit() == 0


def test_host_with_invalid_messages_fails_the_job(hosts: Hosts) -> None:
    first = hosts.start(NAMES[0])
    with connect(hosts) as second:
        second.sendall(hello_message(HostInfo(NAMES[1])).encode())
        receive(second, "members")
        second.sendall(Message("heartbeat").encode() + b"nonsense\n")
        assert first.wait_for("failure")["message"].startswith("127.0.0.2 ended without a result: see its log")
