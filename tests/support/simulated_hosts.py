"""Jobs on several hosts that run a few lines of Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Hosts, JobResult, Moment, TrainingJob, reason_unavailable
from tests.support.simulated_jobs import python_job

needs_hosts = pytest.mark.skipif(bool(reason_unavailable()), reason=reason_unavailable() or "hosts can be simulated")

RESOURCES = """
import json, socket
resources = json.loads((base/'input'/'config'/'resourceconfig.json').read_text())
me, hosts = resources['current_host'], resources['hosts']
first, port = hosts[0], 7777
"""
READY = "print(me, 'is ready')\n"
# The first host accepts the others and holds the connections; the others wait for their end.
CONNECTED = """
def connect():
    if me == first:
        server = socket.create_server(('', port))
        return [server.accept()[0] for _ in hosts[1:]]
    while True:
        try:
            return [socket.create_connection((first, port))]
        except OSError:
            time.sleep(0.05)
connections = connect()
print(me, 'is connected')
"""
ECHO = """
def exchange():
    for connection in connections:
        connection.settimeout(2.0)
        connection.sendall(b'x')
        if connection.recv(1) != b'x': raise ConnectionError('closed')
"""
EXIT_3_WHEN_CLOSED = """
try:
    while True: exchange(); time.sleep(0.02)
except TimeoutError:
    (base/'output'/'failure').write_text(f'{me} hears nothing')
    sys.exit(4)
except OSError:
    (base/'output'/'failure').write_text(f'{me} lost a connection')
    sys.exit(3)
"""
EXIT_ON_SIGTERM = "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'asked to stop\\n'), os._exit(0)))\n"
ALL_CONNECTED = Moment(0.1, "is connected", 2)


def hosts_job(
    code: str,
    folder: Path,
    count: int = 2,
    late: Mapping[str, float] | None = None,
    names_delay_seconds: float = 0.0,
    failure_seconds: float = 20.0,
) -> TrainingJob:
    """A job that runs Python code on several hosts; `me`, `hosts` and `first` are names of hosts."""
    hosts = Hosts(count, late or {}, names_delay_seconds, failure_seconds)
    return replace(python_job(RESOURCES + code, folder), hosts=hosts)


def logs(result: JobResult) -> list[str]:
    return [host.log.read_text() for host in result.hosts]


def exit_codes(result: JobResult) -> list[int]:
    return [host.exit_code for host in result.hosts]
