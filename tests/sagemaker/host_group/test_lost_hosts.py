"""A host that is killed, suspended or cut off from the network ends the job on all hosts, with the cause."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.host_processes import (
    LIMIT_SECONDS,
    HostProcess,
    Hosts,
    hosts_of_a_job,
    linked_namespaces,
    require_root,
    run,
)

pytestmark = pytest.mark.slow

NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
LINKED = ("10.77.0.1", "10.77.0.2")


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    require_root("ip", "tc", "iptables")
    with linked_namespaces() as names:
        yield names


def start_linked(hosts: Hosts, namespaces: tuple[str, str]) -> list[HostProcess]:
    """Start two hosts in the namespaces."""
    return [
        hosts.start(name, prefix=("ip", "netns", "exec", namespace))
        for name, namespace in zip(LINKED, namespaces, strict=True)
    ]


def finish_failed(process: HostProcess, message: str) -> None:
    """Wait for a failure and finish."""
    failure = process.wait_for("failure")
    assert failure["message"].startswith(message)
    assert failure["exit_code"] == 2
    process.command("finish")
    process.command("")


@pytest.mark.parametrize("killed", [0, 1])
def test_killed_host_fails_the_others(killed: int) -> None:
    with hosts_of_a_job(NAMES) as hosts:
        processes = hosts.start_all()
        processes[killed].signal(signal.SIGKILL)
        others = [process for process in processes if process is not processes[killed]]
        for other in others:
            finish_failed(other, f"{NAMES[killed]} ended without a result: see its log")
        assert [other.process.wait(LIMIT_SECONDS) for other in others] == [2, 2]


def test_killed_host_is_the_cause_of_closed_connections() -> None:
    with hosts_of_a_job(NAMES, settle=3.0) as hosts:
        first, second, third = hosts.start_all()
        first.command('fail {"message": "Connection closed by peer", "rank": 0, "is_consequence": true}')
        third.command('fail {"message": "Connection closed by peer", "rank": 2, "is_consequence": true}')
        second.signal(signal.SIGKILL)
        for process in (first, third):
            finish_failed(process, "127.0.0.2 ended without a result")


def test_own_failure_counts_if_the_first_host_ends() -> None:
    with hosts_of_a_job(NAMES[:2], settle=LIMIT_SECONDS) as hosts:
        first, second = hosts.start_all()
        second.command('fail {"message": "full", "exit_code": 2, "rank": 1}')
        time.sleep(0.5)
        first.signal(signal.SIGKILL)
        finish_failed(second, "127.0.0.2, rank 1: full")


@pytest.mark.parametrize("suspended", [0, 1])
def test_suspended_host_fails_the_others(suspended: int) -> None:
    with hosts_of_a_job(NAMES, lost=3.0) as hosts:
        processes = hosts.start_all()
        processes[suspended].signal(signal.SIGSTOP)
        others = [process for process in processes if process is not processes[suspended]]
        for other in others:
            finish_failed(other, f"{NAMES[suspended]} has not answered for 3 s: see its log")
        if suspended:
            # A host that continues learns the cause, as long as the first one waits for the end of others.
            processes[1].signal(signal.SIGCONT)
            finish_failed(processes[1], f"{NAMES[1]} has not answered for 3 s")
        else:
            assert [other.process.wait(LIMIT_SECONDS) for other in others] == [2, 2]


def test_suspension_of_all_hosts_is_harmless() -> None:
    with hosts_of_a_job(NAMES[:2], lost=5.0) as hosts:
        processes = hosts.start_all()
        for process in processes:
            process.signal(signal.SIGSTOP)
        # Longer than the limit, but no host was without an answer while it ran itself.
        time.sleep(6.0)
        for process in processes:
            process.signal(signal.SIGCONT)
        processes[1].command("stop")
        processes[0].wait_for("stop")
        assert not any(process.has_event("failure") for process in processes)


def test_host_that_ends_after_it_has_finished_fails_nothing() -> None:
    with hosts_of_a_job(NAMES) as hosts:
        first, second, third = hosts.start_all()
        second.command("finish")
        time.sleep(1.0)
        second.signal(signal.SIGKILL)
        third.command("finish")
        time.sleep(1.0)
        first.command("finish")
        assert first.result() is None
        assert first.exit() == 0
        assert third.result() is None


def test_cut_link_fails_both_sides(namespaces: tuple[str, str]) -> None:
    with hosts_of_a_job(LINKED, heartbeat=0.5, lost=5.0) as hosts:
        first, second = start_linked(hosts, namespaces)
        for process in (first, second):
            assert process.wait_for("members")["address"] == "10.77.0.1"
        run("ip", "-n", namespaces[1], "link", "set", "veth0", "down")
        finish_failed(first, "10.77.0.2 has not answered for 5 s")
        finish_failed(second, "10.77.0.1 has not answered for 5 s")
        assert [process.process.wait(LIMIT_SECONDS) for process in (first, second)] == [2, 2]


def test_short_cut_is_harmless(namespaces: tuple[str, str]) -> None:
    with hosts_of_a_job(LINKED) as hosts:
        first, second = start_linked(hosts, namespaces)
        for process in (first, second):
            process.wait_for("members")
        run("ip", "-n", namespaces[0], "link", "set", "veth0", "down")
        second.command("stop")
        time.sleep(2.0)
        assert not first.has_event("stop")
        run("ip", "-n", namespaces[0], "link", "set", "veth0", "up")
        first.wait_for("stop")
        for process in (first, second):
            assert not process.has_event("failure")
            process.command("finish")
        assert first.exit() == 0
        assert second.exit() == 0


def test_lost_packets_are_harmless(namespaces: tuple[str, str]) -> None:
    drop = ("-A", "INPUT", "-i", "veth0", "-m", "statistic", "--mode", "random", "--probability", "0.15", "-j", "DROP")
    for namespace in namespaces:
        run("ip", "netns", "exec", namespace, "iptables", *drop)
    with hosts_of_a_job(LINKED, heartbeat=0.1) as hosts:
        first, second = start_linked(hosts, namespaces)
        for process in (first, second):
            process.wait_for("members")
        time.sleep(3.0)
        second.command('fail {"message": "full", "exit_code": 2, "rank": 1}')
        finish_failed(first, "10.77.0.2, rank 1: full")
        finish_failed(second, "10.77.0.2, rank 1: full")
        assert [process.process.wait(LIMIT_SECONDS) for process in (first, second)] == [2, 2]
    assert any(
        int(line.split()[0]) > 0
        for line in run("ip", "netns", "exec", namespaces[0], "iptables", "-nvxL", "INPUT").splitlines()
        if "DROP" in line
    )


def test_slow_link_is_harmless(namespaces: tuple[str, str]) -> None:
    for namespace in namespaces:
        limit = ("rate", "64kbit", "burst", "4kb", "latency", "2000ms")
        run("ip", "netns", "exec", namespace, "tc", "qdisc", "add", "dev", "veth0", "root", "tbf", *limit)
    message = "long " * 4000
    with hosts_of_a_job(LINKED) as hosts:
        first, second = start_linked(hosts, namespaces)
        for process in (first, second):
            process.wait_for("members")
        second.command(f'fail {{"message": "{message}", "exit_code": 2, "rank": 1}}')
        finish_failed(first, "10.77.0.2, rank 1: long long")
        finish_failed(second, "10.77.0.2, rank 1: long long")
        assert [process.process.wait(LIMIT_SECONDS) for process in (first, second)] == [2, 2]
