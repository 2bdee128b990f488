"""Processes that run the coordination of hosts, on loopback addresses or in network namespaces."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 60.0
"""A generous limit for every wait: these tests measure no time."""
FAST: Mapping[str, float] = {"heartbeat": 0.2, "retry": 0.1, "settle": 0.5, "linger": 0.0, "late_start": 0.0}
"""Durations for tests; hosts are lost after the usual 20 s, so that a busy machine loses none by mistake."""


def free_port() -> int:
    """A port that is free on all addresses."""
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


class HostProcess:
    """A process of `host_program.py`."""

    def __init__(self, name: str, options: Mapping[str, Any], prefix: Sequence[str] = ()) -> None:
        self.name = name
        program = [sys.executable, "-m", "tests.support.host_program", json.dumps({**options, "name": name})]
        self.process = subprocess.Popen(
            [*prefix, *program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.events: list[dict[str, Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def command(self, line: str) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first event of this name, which may have happened before."""
        for earlier in self.events:
            if earlier["event"] == event:
                return earlier
        while True:
            try:
                line = self._lines.get(timeout=LIMIT_SECONDS)
            except queue.Empty:
                raise AssertionError(f"{self.name}: no {event!r} after {self.events}") from None
            assert line, f"{self.name} ended without {event!r} after {self.events}"
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]

    def has_event(self, event: str) -> bool:
        """Whether the event has happened."""
        while not self._lines.empty() and (line := self._lines.get()):
            self.events.append(json.loads(line))
        return event in [earlier["event"] for earlier in self.events]

    def result(self) -> dict[str, Any] | None:
        """The failure returned by `finish`."""
        failure = self.wait_for("result")["failure"]
        assert failure is None or isinstance(failure, dict)
        return failure

    def exit(self) -> int:
        """Let the process exit after its result, and return the exit code."""
        self.command("")
        return self.process.wait(timeout=LIMIT_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")


class Hosts:
    """Starts the processes of one job.

    Args:
        names: names of the hosts, which are addresses of this machine.
        times: arguments of `Times`, in addition to `FAST`.
    """

    def __init__(self, names: Sequence[str], times: Mapping[str, float] | None = None) -> None:
        self.names = list(names)
        self.port = free_port()
        self.times = {**FAST, **(times or {})}
        self.processes: list[HostProcess] = []

    def start(self, name: str, info: Mapping[str, Any] | None = None, prefix: Sequence[str] = ()) -> HostProcess:
        """Start the process of a host."""
        options = {"hosts": self.names, "port": self.port, "times": self.times, "info": dict(info or {})}
        self.processes.append(HostProcess(name, options, prefix))
        return self.processes[-1]

    def start_all(self) -> list[HostProcess]:
        """Start the processes of all hosts, and wait until they are complete."""
        processes = [self.start(name) for name in self.names]
        for process in processes:
            process.wait_for("members")
        return processes


@contextmanager
def hosts_of_a_job(names: Sequence[str], **times: float) -> Iterator[Hosts]:
    """The processes of a job; those that still run are killed at the end."""
    hosts = Hosts(names, times)
    try:
        yield hosts
    finally:
        for process in hosts.processes:
            process.close()


def require_root(*programs: str) -> None:
    """Skip the test without root or a program; in continuous integration, which has both, fail instead."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        reason = f"needs root and {', '.join(programs)}; missing: {', '.join(missing) or 'root'}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextmanager
def linked_namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, linked by an interface `veth0` in each, with the addresses 10.77.0.1 and 10.77.0.2."""
    names = tuple(f"finetune-{os.getpid()}-{number}" for number in (1, 2))
    first, second = names
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", first, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", second)
        for number, name in enumerate(names, 1):
            run("ip", "-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "veth0")
            run("ip", "-n", name, "link", "set", "veth0", "up")
        yield first, second
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def run(*command: str) -> str:
    """Run a command of the system, which must succeed."""
    completed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert completed.returncode == 0, f"{' '.join(command)}: {completed.stderr}"
    return completed.stdout
