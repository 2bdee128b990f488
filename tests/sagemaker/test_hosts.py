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
from finetune.sagemaker.hosts import follow, leading

HOSTS = ("127.0.0.1", "algo-2", "algo-3")
FIRST_HOST = """
import sys
from finetune import errors
from finetune.sagemaker.hosts import leading
from finetune.sagemaker.config_files import Resources

resources = Resources("127.0.0.1", ("127.0.0.1", "algo-2", "algo-3"))
with leading(resources, int(sys.argv[1]), latecomers=float(sys.argv[2])):
    word = sys.stdin.readline().strip()
    if word != "done":
        raise {**vars(errors), "ZeroDivisionError": ZeroDivisionError}[word]("Channel 'train' is empty.")
print("told", flush=True)
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
    with first_host(port, latecomers=0.0) as process:
        yield process


@contextmanager
def first_host(port: int, latecomers: float) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-c", FIRST_HOST, str(port), str(latecomers))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def tell(process: subprocess.Popen[str], line: str) -> None:
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


def test_others_stay_until_the_process_of_the_first_host_has_ended(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore, first: subprocess.Popen[str]
) -> None:
    others = [hosts.submit(follow, resources, port, linger=0.0) for resources in (SECOND, THIRD)]
    assert connected.acquire(timeout=20) and connected.acquire(timeout=20)
    tell(first, "done")
    assert first.stdout is not None and first.stdout.readline() == "told\n"
    assert not any(other.done() for other in others)
    tell(first, "")
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
def test_others_fail_as_the_first_host_failed(
    port: int,
    hosts: ThreadPoolExecutor,
    connected: threading.Semaphore,
    first: subprocess.Popen[str],
    failure: tuple[str, type[JobError], str],
) -> None:
    cause, kind, message = failure
    other = hosts.submit(follow, SECOND, port, linger=0.0)
    assert connected.acquire(timeout=20)
    tell(first, cause)
    with pytest.raises(kind) as caught:
        other.result(timeout=20)
    assert str(caught.value).splitlines()[0] == message
    assert caught.value.exit_code == kind.exit_code


def test_hosts_that_start_after_the_first_host_has_failed_hear_its_cause(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore
) -> None:
    with first_host(port, latecomers=600.0) as process:
        early = hosts.submit(follow, SECOND, port, linger=0.0)
        assert connected.acquire(timeout=20)
        # From here on the first host has failed, and waits for the third, which has not started.
        tell(process, "DataError")
        late = hosts.submit(follow, THIRD, port, linger=0.0)
        for other in (early, late):
            with pytest.raises(UserError, match=r"Channel 'train' is empty\."):
                other.result(timeout=60)
        assert process.wait(timeout=20)


def test_a_host_alone_in_the_end_is_not_waited_for_after_the_time_for_latecomers(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError), leading(FIRST, port, latecomers=0.0):
        raise UserError("Channel 'train' is empty.")
    with pytest.raises(UserError), leading(FIRST, port, stopped=lambda: True, latecomers=600.0):
        raise UserError("Channel 'train' is empty.")
    assert "not connected" not in caplog.text


def test_a_first_host_that_is_killed_fails_the_others(
    port: int, hosts: ThreadPoolExecutor, connected: threading.Semaphore, first: subprocess.Popen[str]
) -> None:
    other = hosts.submit(follow, SECOND, port, linger=0.0)
    assert connected.acquire(timeout=20)
    first.kill()
    with pytest.raises(PlatformError, match=r"127\.0\.0\.1 ended without saying how"):
        other.result(timeout=20)


def test_hosts_that_cannot_reach_each_other_do_not_fail_the_job(port: int, caplog: pytest.LogCaptureFixture) -> None:
    follow(SECOND, port, patience=0.0)
    assert "could not be reached" in caplog.text


def test_a_host_that_is_stopped_waits_no_longer_for_one_it_cannot_reach(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    follow(SECOND, port, patience=600.0, stopped=lambda: True)
    assert "could not be reached" not in caplog.text


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
