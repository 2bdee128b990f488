"""State of a job that all its hosts agree on, with the callbacks of this host."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from finetune.errors import JobError, JobStopped, PlatformError
from finetune.sagemaker.failure import Failure
from finetune.sagemaker.host_group.first_failure import error_of
from finetune.sagemaker.host_group.members import Members

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Times:
    """Durations in seconds.

    Attributes:
        patience: until all hosts have connected. The platform starts the containers of a job within minutes of each
            other, and names may not resolve at first.
        retry: between attempts to connect.
        hello: until a new connection has sent its hello.
        heartbeat: between two heartbeats.
        lost: without any message, after which a host counts as lost.
        settle: after the first report of a failure, for reports of earlier ones.
        finish: after the first host has finished, for the others to end their processes.
        late_start: after the start of the first host, for hosts that have not connected when the job has failed, so
            that they receive the cause.
        exit: after the end of the job, for the process of the first host to end.
        linger: by which the other hosts outlive that process. In local mode the first container that exits ends the
            job and decides its result, and a container ends a little later than its process.
    """

    patience: float = 300.0
    retry: float = 1.0
    hello: float = 10.0
    heartbeat: float = 2.0
    lost: float = 20.0
    settle: float = 1.0
    finish: float = 30.0
    late_start: float = 120.0
    exit: float = 60.0
    linger: float = 2.0


class Outcome:
    """Members, stop request, failure and end of a job; calls `on_stop` and `on_failure` at most once each.

    Args:
        on_stop: see `HostGroup`.
        on_failure: see `HostGroup`.
        threaded: whether to call each of them in a thread of its own, so that it may take its time.

    Attributes:
        members: resolves when all hosts have connected; fails if the job fails before.
        result: resolves with the common failure, or `None`, when this host may exit.
    """

    def __init__(self, on_stop: Callable[[], None], on_failure: Callable[[Failure], None], *, threaded: bool) -> None:
        self._on_stop = on_stop
        self._on_failure = on_failure
        self._threaded = threaded
        self._stop_requested = False
        self._failure: Failure | None = None
        self.members: Future[Members] = Future()
        self.result: Future[Failure | None] = Future()

    @property
    def failure(self) -> Failure | None:
        """The first failure of the job, once it is known."""
        return self._failure

    @property
    def stop_requested(self) -> bool:
        """Whether the job was asked to stop."""
        return self._stop_requested

    def set_members(self, members: Members) -> None:
        """Record that all hosts have connected."""
        if not self.members.done():
            self.members.set_result(members)

    def stop(self) -> bool:
        """Record a stop request, and return whether it is the first."""
        if self._stop_requested:
            return False
        self._stop_requested = True
        self._give_up(JobStopped("The job was stopped before all hosts had connected."))
        self._call(self._on_stop)
        return True

    def fail(self, failure: Failure) -> bool:
        """Record the first failure of the job, and return whether there was none before."""
        if self._failure is not None:
            return False
        self._failure = failure
        self._give_up(error_of(failure))
        self._call(lambda: self._on_failure(failure))
        return True

    def end(self) -> None:
        """Record that this host may exit."""
        self._give_up(PlatformError("The job has ended before all hosts had connected."))
        if not self.result.done():
            self.result.set_result(self._failure)

    def _give_up(self, error: JobError | JobStopped) -> None:
        if not self.members.done():
            self.members.set_exception(error)

    def _call(self, callback: Callable[[], None]) -> None:
        if self._threaded:
            threading.Thread(target=_run, args=(callback,), name="host-group-callback", daemon=True).start()
        else:
            _run(callback)


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("A callback of the connection between the hosts failed.")
