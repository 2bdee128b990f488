"""Do the other hosts of a job stay until the first one is done, and end as it ended?"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune.contract.hosts import follow, leading
from finetune.contract.job_files import Resources
from finetune.errors import DataError, JobError, PlatformError, UserError

HOSTS = ("127.0.0.1", "algo-2", "algo-3")
FIRST, SECOND, THIRD = (Resources(name, HOSTS) for name in HOSTS)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def hosts() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released whenever a host has connected."""
    count, connect = threading.Semaphore(0), socket.create_connection

    def counted(address: tuple[str, int], timeout: float) -> socket.socket:
        connection = connect(address, timeout)
        count.release()
        return connection

    monkeypatch.setattr(socket, "create_connection", counted)
    return count


def test_others_stay_until_the_first_host_is_done(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore
) -> None:
    with leading(FIRST, port):
        others = [hosts.submit(follow, resources, port) for resources in (SECOND, THIRD)]
        assert connected.acquire(timeout=20) and connected.acquire(timeout=20)
        assert not any(other.done() for other in others)
    for other in others:
        other.result(timeout=20)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (DataError("Channel 'train' is empty."), UserError, "Channel 'train' is empty."),
        (PlatformError("The disk is full."), PlatformError, "The disk is full."),
        (ZeroDivisionError("by zero"), JobError, "Internal error, ZeroDivisionError: by zero"),
    ],
)
def test_others_fail_as_the_first_host_failed(
    port: int,
    hosts: ThreadPoolExecutor,
    connected: threading.Semaphore,
    error: Exception,
    kind: type[JobError],
    message: str,
) -> None:
    with pytest.raises(type(error)), leading(FIRST, port):
        other = hosts.submit(follow, SECOND, port)
        assert connected.acquire(timeout=20)
        raise error
    with pytest.raises(kind) as caught:
        other.result(timeout=20)
    assert str(caught.value).splitlines()[0] == message
    assert caught.value.exit_code == kind.exit_code


def test_a_first_host_that_dies_silently_fails_the_others(port: int, hosts: ThreadPoolExecutor) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        other = hosts.submit(follow, SECOND, port)
        connection, _ = listener.accept()
        connection.close()
    with pytest.raises(PlatformError, match=r"127\.0\.0\.1 ended without saying how"):
        other.result(timeout=20)


def test_a_first_host_that_starts_late_is_waited_for(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore
) -> None:
    other = hosts.submit(follow, SECOND, port)
    with leading(FIRST, port):
        assert connected.acquire(timeout=20)
    other.result(timeout=20)


def test_hosts_that_cannot_reach_each_other_do_not_fail_the_job(port: int, caplog: pytest.LogCaptureFixture) -> None:
    follow(SECOND, port, patience=0.0)
    assert "could not be reached" in caplog.text


def test_one_host_opens_nothing(port: int) -> None:
    with leading(Resources("algo-1", ("algo-1",)), port), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_port_that_is_taken_is_named(port: int) -> None:
    with (
        socket.create_server(("", port)),
        pytest.raises(PlatformError, match=f"Port {port}"),
        leading(FIRST, port),
    ):
        pass
