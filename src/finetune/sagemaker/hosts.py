"""How the hosts of one job wait for the first of them, which alone trains and writes the model.

In local mode the first container that exits ends the job and decides its result, so no host may leave while the first
one works. The first host holds a port open while it works; the others connect to it, and hear in one line how it
ended. Nobody has to answer meanwhile: a connection waits in the system's queue. It is closed by the system, when the
first host's process has ended, and only then the others leave.
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

# Beside 7777, on which sagemaker-training lets the hosts of distributed programs meet.
PORT = 7778
# The platform starts containers of one job within minutes of each other, and names may not resolve at first.
PATIENCE_SECONDS = 300.0
# For so long after its own start the first host, if it ends sooner, waits for those that have not connected yet.
LATECOMER_SECONDS = 120.0
_RETRY_SECONDS = 1.0
_ACCEPT_SECONDS = 0.2
_SECONDS_TO_TELL = 5.0
# The process of the first host has ended, its container not yet.
LINGER_SECONDS = 2.0
_SECONDS_TO_END = 60.0
# A first host that vanished without a word is noticed after two minutes.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
_ERRORS: tuple[type[JobError], ...] = (UserError, PlatformError, JobError)


@dataclass(slots=True)
class Ending:
    """How the first host's job ended.

    Attributes:
        failure: `None` where it succeeded.
    """

    failure: Failure | None = None


@contextmanager
def leading(
    resources: Resources,
    port: int = PORT,
    stopped: Callable[[], bool] = lambda: False,
    latecomers: float = LATECOMER_SECONDS,
) -> Iterator[Ending]:
    """Let the other hosts wait while the block runs, then tell each of them how it ended; nothing for one host.

    Args:
        resources: names the hosts.
        port: where the other hosts connect.
        stopped: whether the job was asked to stop, after which hosts that have not connected are not waited for.
        latecomers: seconds after the beginning of the block for which hosts that have not connected are waited for.
            Without it a job that fails at once would leave a host that starts later without a cause.

    Yields:
        The ending, whose failure the block may set; an exception that leaves the block counts as a failure.
    """
    ending = Ending()
    if len(resources.hosts) == 1:
        yield ending
        return
    logger.info("%s trains; the other hosts wait for it.", resources.current_host)
    deadline = time.monotonic() + latecomers
    with closing(_listen(port, backlog=len(resources.hosts))) as listener:
        try:
            yield ending
        except BaseException as error:
            ending.failure = failure_of(error)
            raise
        finally:
            _tell_all(listener, len(resources.hosts) - 1, ending.failure, lambda: stopped() or _past(deadline))


def follow(
    resources: Resources,
    port: int = PORT,
    patience: float = PATIENCE_SECONDS,
    linger: float = LINGER_SECONDS,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until the first host has ended.

    Args:
        resources: names the first host.
        port: where it listens.
        patience: seconds for which it may be unreachable at the start. After them this host leaves with a warning:
            on the platform the job waits for the first host by itself.
        linger: seconds by which this host outlives the first one's process.
        stopped: whether the job was asked to stop, after which an unreachable first host is not waited for.

    Raises:
        JobError: the first host failed; of the same kind and with the same message.
        PlatformError: it ended without saying how.
    """
    first = resources.hosts[0]
    logger.info("One host trains: %s waits for %s.", resources.current_host, first)
    deadline = time.monotonic() + patience
    connection = _connect(first, port, lambda: stopped() or _past(deadline))
    if connection is None and stopped():
        logger.info("Stopped while %s could not be reached.", first)
        return
    if connection is None:
        logger.warning("%s could not be reached within %.0f s, so nobody waits for it.", first, patience)
        return
    with connection:
        word = _hear(connection)
    time.sleep(linger)
    if word is None:
        raise PlatformError(f"{first} ended without saying how: its own log, or its memory and disk, say why.")
    exit_code, message = word
    if exit_code:
        raise next((kind for kind in _ERRORS if kind.exit_code == exit_code), JobError)(Lines(message))
    logger.info("%s is done.", first)


def _listen(port: int, backlog: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=backlog)
    except OSError as error:
        raise PlatformError(f"Port {port}, where the other hosts wait, cannot be opened: {error}.") from error


def _tell_all(listener: socket.socket, others: int, failure: Failure | None, over: Callable[[], bool]) -> None:
    """Answer every host that has connected, and those that still connect until it is over.

    The system closes a connection when this process has ended; a host that is gone needs no answer.
    """
    word = {"exit_code": 0, "message": ""}
    if failure is not None:
        word = {"exit_code": failure.exit_code, "message": failure.message}
    answer = json.dumps(word).encode() + b"\n"
    listener.settimeout(_ACCEPT_SECONDS)
    waiting = False
    for told in range(others):
        while (connection := _accept(listener)) is None:
            if over():
                return
            if not waiting:
                logger.info("%d of %d other hosts have not connected yet: waiting for them.", others - told, others)
            waiting = True
        with suppress(OSError):
            connection.settimeout(_SECONDS_TO_TELL)
            connection.sendall(answer)
        connection.detach()


def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except TimeoutError:
        return None


def _past(deadline: float) -> bool:
    return time.monotonic() > deadline


def _connect(host: str, port: int, over: Callable[[], bool]) -> socket.socket | None:
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=10.0)
        except OSError:
            if over():
                return None
            time.sleep(_RETRY_SECONDS)
            continue
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection


def _hear(connection: socket.socket) -> tuple[int, str] | None:
    """What the first host says, once its process has ended."""
    try:
        with connection.makefile("rb") as stream:
            said = json.loads(stream.readline())
            word = (int(said["exit_code"]), str(said["message"]))
            connection.settimeout(_SECONDS_TO_END)
            with suppress(OSError):
                stream.read()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return word
