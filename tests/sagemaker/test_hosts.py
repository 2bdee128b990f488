"""The other hosts of a job wait for the first one and end with its status."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from finetune.errors import JobError, PlatformError, UserError
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.hosts import announce_result, wait_for_first_host

HOSTS = ("127.0.0.1", "algo-2", "algo-3")
FIRST_HOST = """
import sys
from finetune import errors
from finetune.sagemaker.hosts import announce_result
from finetune.sagemaker.config_files import Resources

resources = Resources("127.0.0.1", ("127.0.0.1", "algo-2", "algo-3"))
with announce_result(resources, int(sys.argv[1]), late_start_seconds=float(sys.argv[2])):
    line = sys.stdin.readline().strip()
    if line != "done":
        raise {**vars(errors), "ZeroDivisionError": ZeroDivisionError}[line]("Channel 'train' is empty.")
print("sent", flush=True)
sys.stdin.readline()
"""
FIRST, SECOND, THIRD = (Resources(name, HOSTS) for name in HOSTS)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def hosts() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def first(port: int) -> Iterator[subprocess.Popen[str]]:
    """The process of the first host, which ends as requested on its standard input, without waiting for other hosts."""
    with first_host(port, late_start_seconds=0.0) as process:
        yield process


@contextmanager
def first_host(port: int, late_start_seconds: float) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-c", FIRST_HOST, str(port), str(late_start_seconds))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


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


def test_other_hosts_wait_for_the_first_process(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore, first: subprocess.Popen[str]
) -> None:
    others = [hosts.submit(wait_for_first_host, resources, port, linger=0.0) for resources in (SECOND, THIRD)]
    assert connected.acquire(timeout=20) and connected.acquire(timeout=20)
    send(first, "done")
    assert first.stdout is not None and first.stdout.readline() == "sent\n"
    assert not any(other.done() for other in others)
    send(first, "")
    for other in others:
        other.result(timeout=20)


@pytest.mark.parametrize(
    "failure",
    [
        ("DataError", UserError, "Channel 'train' is empty."),
        ("PlatformError", PlatformError, "Channel 'train' is empty."),
        ("ZeroDivisionError", JobError, "Internal error, ZeroDivisionError: Channel 'train' is empty."),
    ],
)
def test_other_hosts_fail_like_the_first(
    port: int,
    hosts: ThreadPoolExecutor,
    connected: threading.Semaphore,
    first: subprocess.Popen[str],
    failure: tuple[str, type[JobError], str],
) -> None:
    cause, kind, message = failure
    other = hosts.submit(wait_for_first_host, SECOND, port, linger=0.0)
    assert connected.acquire(timeout=20)
    send(first, cause)
    with pytest.raises(kind) as caught:
        other.result(timeout=20)
    assert str(caught.value).splitlines()[0] == message
    assert caught.value.exit_code == kind.exit_code


def test_late_host_receives_earlier_failure(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore
) -> None:
    with first_host(port, late_start_seconds=600.0) as process:
        early = hosts.submit(wait_for_first_host, SECOND, port, linger=0.0)
        assert connected.acquire(timeout=20)
        # From here on the first host has failed, and waits for the third, which has not started.
        send(process, "DataError")
        late = hosts.submit(wait_for_first_host, THIRD, port, linger=0.0)
        for other in (early, late):
            with pytest.raises(UserError, match=r"Channel 'train' is empty\."):
                other.result(timeout=60)
        assert process.wait(timeout=20)


def test_first_host_stops_waiting_for_late_hosts(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError), announce_result(FIRST, port, late_start_seconds=0.0):
        raise UserError("Channel 'train' is empty.")
    with pytest.raises(UserError), announce_result(FIRST, port, stopped=lambda: True, late_start_seconds=600.0):
        raise UserError("Channel 'train' is empty.")
    assert "not connected" not in caplog.text


def test_killed_first_host_fails_the_others(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore, first: subprocess.Popen[str]
) -> None:
    other = hosts.submit(wait_for_first_host, SECOND, port, linger=0.0)
    assert connected.acquire(timeout=20)
    first.kill()
    with pytest.raises(PlatformError, match=r"127\.0\.0\.1 ended without sending its result"):
        other.result(timeout=20)


def test_unreachable_first_host_is_a_warning(port: int, caplog: pytest.LogCaptureFixture) -> None:
    wait_for_first_host(SECOND, port, patience=0.0)
    assert "could not be reached" in caplog.text


def test_stopped_host_stops_connecting(port: int, caplog: pytest.LogCaptureFixture) -> None:
    wait_for_first_host(SECOND, port, patience=600.0, stopped=lambda: True)
    assert "could not be reached" not in caplog.text


def test_single_host_opens_no_port(port: int) -> None:
    with announce_result(Resources("algo-1", ("algo-1",)), port), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_used_port_is_reported(port: int) -> None:
    with (
        socket.create_server(("", port)),
        pytest.raises(PlatformError, match=f"Port {port}"),
        announce_result(FIRST, port),
    ):
        pass
