"""The hosts of a job start, stop, fail and end together."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from finetune.errors import DataError, JobStopped, PlatformError
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.failure import Failure
from finetune.sagemaker.host_group.group import HostGroup
from finetune.sagemaker.host_group.members import HostInfo, Members
from finetune.sagemaker.host_group.outcome import Times
from tests.support.host_processes import LIMIT_SECONDS, HostProcess, Hosts, free_port, hosts_of_a_job

pytestmark = pytest.mark.slow

NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
ONE_HOST = """
import sys
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.host_group.group import HostGroup
from finetune.sagemaker.host_group.members import HostInfo

group = HostGroup(Resources(), HostInfo("algo-1", 4), on_stop=print, on_failure=print)
with group:
    assert group.wait_for_members().world_size == 4
    assert group.finish() is None
print(*(name for name in ("asyncio", "ssl", "torch") if name in sys.modules))
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with hosts_of_a_job(NAMES) as hosts:
        yield hosts


def finish(processes: Sequence[HostProcess]) -> list[dict[str, object] | None]:
    """Finish on all hosts, and return their results; the first process must come first."""
    for process in processes:
        process.command("finish")
    first, *others = processes
    result = first.result()
    first.exit()
    return [result, *(other.result() for other in others)]


def test_all_hosts_receive_the_same_members_in_order(hosts: Hosts) -> None:
    third, second, first = (hosts.start(name, {"devices": int(name[-1])}) for name in reversed(NAMES))
    events = [process.wait_for("members") for process in (first, second, third)]
    assert [event["hosts"] for event in events] == [list(NAMES)] * 3
    assert [event["ranks"] for event in events] == [[0, 6], [1, 6], [3, 6]]
    assert {event["address"] for event in events} == {"127.0.0.1"}
    assert finish((first, second, third)) == [None, None, None]
    assert [process.exit() for process in (second, third)] == [0, 0]


def test_one_host_needs_no_port_and_no_thread(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", ONE_HOST], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert completed.stdout.strip() == ""
    assert completed.stderr == ""


def test_one_host_has_the_same_callbacks() -> None:
    stops: list[None] = []
    failures: list[Failure] = []
    with HostGroup(
        Resources(), HostInfo("algo-1", 4), on_stop=lambda: stops.append(None), on_failure=failures.append
    ) as group:
        assert group.wait_for_members() == Members((HostInfo("algo-1", 4),), "algo-1", "127.0.0.1")
        group.stop()
        group.stop()
        assert len(stops) == 1
        group.fail(Failure("full", 2, expected=True), rank=3)
        assert failures == [Failure("rank 3: full", 2, expected=True)]
        assert group.finish(Failure("later", 1, expected=True)) == failures[0]
    assert len(failures) == 1


def test_description_must_be_of_the_current_host() -> None:
    with pytest.raises(ValueError, match="algo-2"):
        HostGroup(Resources(), HostInfo("algo-2"), on_stop=lambda: None, on_failure=lambda failure: None)


def test_failing_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("broken callback")

    with HostGroup(Resources(), HostInfo("algo-1"), on_stop=fail, on_failure=lambda failure: None) as group:
        group.stop()
    assert caplog.records[0].levelno == logging.ERROR
    assert "broken callback" in caplog.text


def test_stop_before_the_start_is_kept() -> None:
    stopped = threading.Event()
    group = HostGroup(
        Resources(NAMES[1], NAMES),
        HostInfo(NAMES[1]),
        on_stop=stopped.set,
        on_failure=lambda failure: None,
        port=free_port(),
        times=Times(lost=0.0),
    )
    group.stop()
    with group:
        assert stopped.wait(LIMIT_SECONDS)


@pytest.mark.parametrize("origins", [[0], [2], [0, 1, 2]])
def test_sigterm_on_any_host_stops_all(hosts: Hosts, origins: list[int]) -> None:
    processes = hosts.start_all()
    for origin in origins:
        processes[origin].signal(signal.SIGTERM)
    for process in processes:
        process.wait_for("stop")
    # A second signal, also on another host, changes nothing.
    processes[1].signal(signal.SIGTERM)
    processes[origins[0]].signal(signal.SIGTERM)
    assert finish(processes) == [None, None, None]
    assert [event["event"] for process in processes for event in process.events].count("stop") == 3


def test_stop_before_all_have_connected(hosts: Hosts) -> None:
    first, second = (hosts.start(name) for name in NAMES[:2])
    second.wait_for("started")
    second.command("stop")
    assert [process.wait_for("no members")["kind"] for process in (first, second)] == ["JobStopped", "JobStopped"]
    third = hosts.start(NAMES[2])
    third.wait_for("stop")
    assert finish((first, second, third)) == [None, None, None]


def test_waiting_host_can_be_stopped() -> None:
    resources, times = Resources(NAMES[1], NAMES), Times(lost=1.0)
    group = HostGroup(
        resources,
        HostInfo(NAMES[1]),
        on_stop=lambda: None,
        on_failure=lambda failure: None,
        port=free_port(),
        times=times,
    )
    with group, pytest.raises(JobStopped, match="The job was stopped before all hosts had connected"):
        group.wait_for_members(stopped=lambda: True)
    assert group.finish() is None


def test_stop_reaches_a_first_host_that_starts_later() -> None:
    with hosts_of_a_job(NAMES[:2]) as hosts:
        second = hosts.start(NAMES[1])
        second.wait_for("started")
        second.command("stop")
        second.wait_for("stop")
        first = hosts.start(NAMES[0])
        first.wait_for("stop")
        assert finish((first, second)) == [None, None]


@pytest.mark.parametrize("origin", [0, 1, 2])
def test_failure_of_one_host_is_that_of_all(hosts: Hosts, origin: int) -> None:
    processes = hosts.start_all()
    processes[origin].command('fail {"message": "The machine ran out of memory.", "exit_code": 137, "rank": 11}')
    failures = [process.wait_for("failure") for process in processes]
    assert [failure["message"] for failure in failures] == [
        f"{NAMES[origin]}, rank 11: The machine ran out of memory."
    ] * 3
    # Failures that follow, such as those of processes that are terminated, change nothing.
    processes[0].command('fail {"message": "terminated", "exit_code": 143, "rank": 0, "age": 100}')
    results = finish(processes)
    assert results[0] is not None
    assert results[0]["message"] == failures[0]["message"]
    assert results == [results[0]] * 3
    assert [process.exit() for process in processes[1:]] == [137, 137]
    assert processes[0].process.wait(LIMIT_SECONDS) == 137
    assert [event["event"] for process in processes for event in process.events].count("failure") == 3


def test_earliest_failure_is_the_cause() -> None:
    with hosts_of_a_job(NAMES, settle=3.0) as hosts:
        processes = hosts.start_all()
        processes[0].command('fail {"message": "Connection closed by peer", "is_consequence": true, "age": 10}')
        processes[1].command('fail {"message": "second", "rank": 1, "age": 2}')
        processes[2].command('fail {"message": "first", "rank": 2, "age": 4}')
        messages = {process.wait_for("failure")["message"] for process in processes}
        assert messages == {"127.0.0.3, rank 2: first"}


def test_failure_given_to_finish_is_announced(hosts: Hosts) -> None:
    processes = hosts.start_all()
    processes[1].command("finish Channel 'train' is empty.")
    for process in (processes[0], processes[2]):
        assert process.wait_for("failure")["message"] == "127.0.0.2: Channel 'train' is empty."
        process.command("finish")
    assert processes[0].exit() == 1
    assert [process.exit() for process in processes[1:]] == [1, 1]


@pytest.mark.parametrize("origin", [0, 1])
def test_exception_that_leaves_the_block_fails_all(hosts: Hosts, origin: int) -> None:
    processes = hosts.start_all()
    processes[origin].command("raise Channel 'train' is empty.")
    others = [process for process in processes if process is not processes[origin]]
    for other in others:
        assert other.wait_for("failure")["message"] == f"{NAMES[origin]}: Channel 'train' is empty."
        other.command("finish")
    if origin:
        assert processes[0].exit() == 1
    assert processes[origin].process.wait(LIMIT_SECONDS) == 1
    assert processes[origin].wait_for("error")["message"] == "Channel 'train' is empty."


def test_exception_before_all_have_connected_fails_all(hosts: Hosts) -> None:
    first, second = (hosts.start(name) for name in NAMES[:2])
    second.wait_for("started")
    second.command("raise Channel 'train' is empty.")
    failure = first.wait_for("no members")
    assert failure == {"event": "no members", "kind": "UserError", "message": "127.0.0.2: Channel 'train' is empty."}


def test_hosts_wait_for_the_process_of_the_first(hosts: Hosts) -> None:
    first, second, third = hosts.start_all()
    second.command("finish")
    third.command("finish")
    first.command("finish")
    assert first.result() is None
    # The first host has announced the end, but its process has not ended.
    time.sleep(1.0)
    assert not second.has_event("result") and not third.has_event("result")
    assert first.exit() == 0
    assert second.result() is None and third.result() is None


def test_hosts_outlive_the_first_process() -> None:
    with hosts_of_a_job(NAMES[:2], linger=2.0) as hosts:
        first, second = hosts.start_all()
        second.command("finish")
        first.command("finish")
        first.result()
        first.exit()
        ended = time.monotonic()
        assert second.result() is None
        assert time.monotonic() - ended > 1.5


def test_used_port_is_reported() -> None:
    port = free_port()
    group = HostGroup(
        Resources(NAMES[0], NAMES),
        HostInfo(NAMES[0]),
        on_stop=lambda: None,
        on_failure=lambda failure: None,
        port=port,
    )
    with socket.create_server(("", port)), pytest.raises(PlatformError, match=f"Port {port}"), group:
        raise DataError("unreachable")
