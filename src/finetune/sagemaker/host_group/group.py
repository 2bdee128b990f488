"""The hosts of a job: one connection from each other host to the first one, served by a thread.

Every host trains. The first host of `resourceconfig.json` listens on a port, and decides for all of them which failure
came first and when the job has ended; `messages.py` describes the messages, docs/decisions/host-coordination.md gives
the reasons. In a job with one host, no port is opened and no thread is started.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from finetune.errors import JobStopped, PlatformError
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.failure import Failure, failure_of
from finetune.sagemaker.host_group.first_failure import Report, with_origin
from finetune.sagemaker.host_group.members import HostInfo, Members
from finetune.sagemaker.host_group.outcome import Outcome, Times

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from finetune.sagemaker.host_group.first_host import FirstHost
    from finetune.sagemaker.host_group.other_host import OtherHost

logger = logging.getLogger(__name__)

PORT = 7778
"""Next to 7777, the rendezvous port of sagemaker-training for distributed programs."""
_POLL_SECONDS = 0.1
_LOOPBACK = "127.0.0.1"


class HostGroup:
    """The hosts of a job, from the view of one of them; a context manager that must be open while the job runs.

    Leaving the block without `finish` finishes with the exception that leaves it, if there is one.

    Args:
        resources: names of the hosts.
        info: description of this host; its name must be that of the current host.
        on_stop: called once when the job is asked to stop on any host, including this one; in a thread of its own if
            there are several hosts.
        on_failure: called once with the first failure of the job on any host, including this one; in a thread of its
            own if there are several hosts.
        port: on which the first host listens.
        times: durations.
    """

    def __init__(
        self,
        resources: Resources,
        info: HostInfo,
        *,
        on_stop: Callable[[], None],
        on_failure: Callable[[Failure], None],
        port: int = PORT,
        times: Times | None = None,
    ) -> None:
        if info.name != resources.current_host:
            raise ValueError(f"host {info.name!r} is described, but the current host is {resources.current_host!r}")
        self._resources = resources
        self._info = info
        self._port = port
        self._times = times or Times()
        self._is_single = len(resources.hosts) == 1
        self._stopped_early = False
        self._outcome = Outcome(on_stop, on_failure, threaded=not self._is_single)
        self._server: _Server | None = None
        self._finished = False

    def __enter__(self) -> Self:
        """Open the port of the first host, or begin to connect to it.

        Raises:
            PlatformError: the port of the first host is in use.
        """
        if self._is_single:
            self._outcome.set_members(Members((self._info,), self._info.name, _LOOPBACK))
        else:
            self._server = _Server(self._resources, self._info, self._times, self._outcome, self._port)
            if self._stopped_early:
                self.stop()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self.finish(None if error is None or isinstance(error, JobStopped) else failure_of(error))
        if self._server is not None:
            self._server.join()

    def wait_for_members(self, stopped: Callable[[], bool] = lambda: False) -> Members:
        """Wait until all hosts have connected.

        Args:
            stopped: whether this host was asked to stop; polled.

        Raises:
            JobStopped: the job was asked to stop on any host.
            JobError: the job has failed on any host, or a host has not connected in time. `finish` returns the failure.
        """
        while True:
            with suppress(TimeoutError):
                return self._outcome.members.result(timeout=_POLL_SECONDS)
            if stopped():
                self.stop()

    def stop(self) -> None:
        """Request all hosts to stop; returns at once, and may be called in a signal handler."""
        if self._is_single:
            self._outcome.stop()
        elif self._server is None:
            self._stopped_early = True
        else:
            self._server.call(self._server.role.stop)

    def fail(
        self, failure: Failure, *, rank: int | None = None, age: float = 0.0, is_consequence: bool = False
    ) -> None:
        """Report a failure of this host; returns at once.

        Args:
            failure: only the first one of a host counts.
            rank: the process that failed, if it was one.
            age: seconds since the failure, to compare with failures of other hosts.
            is_consequence: whether it probably follows from a failure elsewhere, as a connection that a peer has closed
                does. All others take precedence.
        """
        if self._server is None:
            self._outcome.fail(with_origin(failure, None, rank))
        else:
            report = self._reported(failure, rank, age, is_consequence)
            self._server.call(partial(self._server.role.report, report))

    def finish(self, failure: Failure | None = None) -> Failure | None:
        """Wait until all hosts have finished and this one may exit; call it when all processes of this host have ended.

        On hosts other than the first it returns when the process of the first host has ended, since in local mode the
        first container that exits ends the job.

        Args:
            failure: of this host, if it was not reported by `fail`.

        Returns:
            The first failure of the job: the same on all hosts, with the host in its message.
        """
        self._finished = True
        if self._server is None:
            if failure is not None:
                self._outcome.fail(failure)
            self._outcome.end()
        else:
            report = None if failure is None else self._reported(failure, None, 0.0, False)
            self._server.call(partial(self._server.role.finish, report))
        return self._outcome.result.result()

    def _reported(self, failure: Failure, rank: int | None, age: float, is_consequence: bool) -> Report:
        return Report(with_origin(failure, self._info.name, rank), time.monotonic() - age, is_consequence)


class _Server:
    """The thread with the event loop of a group.

    Attributes:
        role: of this host; its methods must be called by `call`.
    """

    def __init__(self, resources: Resources, info: HostInfo, times: Times, outcome: Outcome, port: int) -> None:
        # asyncio takes a moment to import, which jobs with one host do not need.
        from finetune.sagemaker.host_group.first_host import FirstHost
        from finetune.sagemaker.host_group.other_host import OtherHost

        self.role: FirstHost | OtherHost
        if resources.current_host == resources.hosts[0]:
            listener = _listen(port, backlog=len(resources.hosts))
            self.role = FirstHost(resources, info, times, outcome, listener)
        else:
            self.role = OtherHost(resources, info, times, outcome, port)
        self._outcome = outcome
        started: Future[AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="host-group", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in the event loop; does nothing after the end of the loop."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self, started: Future[AbstractEventLoop]) -> None:
        import asyncio

        async def serve() -> None:
            started.set_result(asyncio.get_running_loop())
            await self.role.run()

        try:
            asyncio.run(serve())
        except BaseException as error:
            logger.exception("The connection between the hosts failed.")
            if not started.done():
                started.set_exception(error)
            self._outcome.fail(failure_of(error))
        finally:
            self._outcome.end()


def _listen(port: int, backlog: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=backlog)
    except OSError as error:
        raise PlatformError(f"Port {port}, to which the other hosts connect, cannot be opened: {error}.") from error
