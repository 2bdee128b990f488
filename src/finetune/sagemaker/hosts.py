"""Synchronizes the hosts of a job: the first host trains and writes the model, the others wait for it.

In local mode the first container that exits ends the job and decides its result, so no host may exit while the first
one works. The first host listens on a port while it works; the others connect to it, and receive one line with the
result. The first host need not accept connections while it works: they wait in the system's backlog. The system closes
them when the first host's process has ended, and only then do the others exit.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from finetune.errors import JobError, PlatformError, UserError
from finetune.messages import Lines
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.failure import Failure, failure_of

logger = logging.getLogger(__name__)

# Next to 7777, the rendezvous port of sagemaker-training for distributed programs.
PORT = 7778
# The platform starts containers of one job within minutes of each other, and names may not resolve at first.
PATIENCE_SECONDS = 300.0
# If the first host ends sooner than this after its start, it waits for hosts that have not connected yet.
LATE_START_SECONDS = 120.0
_RETRY_SECONDS = 1.0
_ACCEPT_SECONDS = 0.2
_SEND_TIMEOUT = 5.0
# The container of the first host ends a little later than its process.
LINGER_SECONDS = 2.0
_EXIT_TIMEOUT = 60.0
# Keep-alive detects within two minutes that the first host vanished.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
_ERRORS: tuple[type[JobError], ...] = (UserError, PlatformError, JobError)


@dataclass(slots=True)
class HostResult:
    """Result of the first host's job.

    Attributes:
        failure: `None` if it succeeded.
    """

    failure: Failure | None = None


@contextmanager
def announce_result(
    resources: Resources,
    port: int = PORT,
    stopped: Callable[[], bool] = lambda: False,
    late_start_seconds: float = LATE_START_SECONDS,
) -> Iterator[HostResult]:
    """Let the other hosts wait while the block runs, then send each of them the result; does nothing for one host.

    Args:
        resources: names of the hosts.
        port: where the other hosts connect.
        stopped: whether the job was stopped; hosts that have not connected by then are not waited for.
        late_start_seconds: seconds after the start of the block during which to wait for hosts that have not connected.
            Without this, a host that starts after the job has failed would not learn the cause.

    Yields:
        The result, whose failure the block may set; an exception that leaves the block counts as a failure.
    """
    result = HostResult()
    if len(resources.hosts) == 1:
        yield result
        return
    logger.info("%s trains, the other hosts wait for it.", resources.current_host)
    deadline = time.monotonic() + late_start_seconds
    with closing(_listen(port, backlog=len(resources.hosts))) as listener:
        try:
            yield result
        except BaseException as error:
            result.failure = failure_of(error)
            raise
        finally:
            _send_to_all(listener, len(resources.hosts) - 1, result.failure, lambda: stopped() or _past(deadline))


def wait_for_first_host(
    resources: Resources,
    port: int = PORT,
    patience: float = PATIENCE_SECONDS,
    linger: float = LINGER_SECONDS,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until the first host has ended.

    Args:
        resources: names of the hosts.
        port: where the first host listens.
        patience: seconds during which the first host may be unreachable at the start. After that, this host exits with
            a warning: on the platform the job waits for the first host anyway.
        linger: seconds by which this host outlives the process of the first one.
        stopped: whether the job was stopped; an unreachable first host is then not waited for.

    Raises:
        JobError: the first host failed; of the same kind and with the same message.
        PlatformError: the first host ended without sending a result.
    """
    first = resources.hosts[0]
    logger.info("Only one host trains: %s waits for %s.", resources.current_host, first)
    deadline = time.monotonic() + patience
    connection = _connect(first, port, lambda: stopped() or _past(deadline))
    if connection is None and stopped():
        logger.info("Stopped while %s could not be reached.", first)
        return
    if connection is None:
        logger.warning("%s could not be reached within %.0f s: not waiting for it.", first, patience)
        return
    with connection:
        reply = _receive(connection)
    time.sleep(linger)
    if reply is None:
        raise PlatformError(f"{first} ended without sending its result: see its log, and its memory and disk metrics.")
    exit_code, message = reply
    if exit_code:
        raise next((kind for kind in _ERRORS if kind.exit_code == exit_code), JobError)(Lines(message))
    logger.info("%s is done.", first)


def _listen(port: int, backlog: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=backlog)
    except OSError as error:
        raise PlatformError(f"Port {port}, to which the other hosts connect, cannot be opened: {error}.") from error


def _send_to_all(listener: socket.socket, others: int, failure: Failure | None, gave_up: Callable[[], bool]) -> None:
    """Send the result to every connected host, and to those that still connect until `gave_up` returns true.

    The system closes a connection when this process has ended; errors of hosts that are gone are ignored.
    """
    result = {"exit_code": 0, "message": ""}
    if failure is not None:
        result = {"exit_code": failure.exit_code, "message": failure.message}
    line = json.dumps(result).encode() + b"\n"
    listener.settimeout(_ACCEPT_SECONDS)
    logged = False
    for sent in range(others):
        while (connection := _accept(listener)) is None:
            if gave_up():
                return
            if not logged:
                logger.info("%d of %d other hosts have not connected yet: waiting for them.", others - sent, others)
            logged = True
        with suppress(OSError):
            connection.settimeout(_SEND_TIMEOUT)
            connection.sendall(line)
        connection.detach()


def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except TimeoutError:
        return None


def _past(deadline: float) -> bool:
    return time.monotonic() > deadline


def _connect(host: str, port: int, gave_up: Callable[[], bool]) -> socket.socket | None:
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=10.0)
        except OSError:
            if gave_up():
                return None
            time.sleep(_RETRY_SECONDS)
            continue
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection


def _receive(connection: socket.socket) -> tuple[int, str] | None:
    """The result sent by the first host, once its process has ended."""
    try:
        with connection.makefile("rb") as stream:
            reply = json.loads(stream.readline())
            result = (int(reply["exit_code"]), str(reply["message"]))
            connection.settimeout(_EXIT_TIMEOUT)
            with suppress(OSError):
                stream.read()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return result
