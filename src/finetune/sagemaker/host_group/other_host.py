"""Any host but the first: connects to the first host, sends its news, and receives the decisions."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress

from finetune.errors import PlatformError
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.failure import failure_of
from finetune.sagemaker.host_group.connection import Connection
from finetune.sagemaker.host_group.first_failure import FirstFailure, Report
from finetune.sagemaker.host_group.members import HostInfo, Members
from finetune.sagemaker.host_group.messages import (
    LINE_LIMIT,
    Message,
    MessageError,
    failure_of_message,
    hello_message,
    members_of,
    report_message,
)
from finetune.sagemaker.host_group.outcome import Outcome, Times

logger = logging.getLogger(__name__)

_ATTEMPT_SECONDS = 10.0


class OtherHost:
    """Client of the group; all methods run in its event loop.

    Args:
        resources: names of the hosts.
        info: description of this host.
        times: durations.
        outcome: where to record the state of the job.
        port: port of the first host.
    """

    def __init__(self, resources: Resources, info: HostInfo, times: Times, outcome: Outcome, port: int) -> None:
        self._first = resources.hosts[0]
        self._info = info
        self._times = times
        self._outcome = outcome
        self._port = port
        self._connection: Connection | None = None
        self._report: Report | None = None
        self._deadline = float("inf")
        self._complete = False
        self._ended = False
        self._refused = False
        self._finishing = asyncio.Event()

    async def run(self) -> None:
        """Stay connected until the job has ended and this host has finished."""
        self._deadline = _now() + self._times.patience
        while not self._ended:
            problem = await self._attempt()
            if problem is None:
                break
            if self._complete or self._outcome.failure is not None:
                self._decide_alone(f"{self._first} {problem}.")
            elif _now() < self._deadline:
                await asyncio.sleep(self._times.retry)
            elif self._outcome.stop_requested:
                logger.info("Stopped while %s could not be reached.", self._first)
                self._decide_alone(None)
            else:
                self._decide_alone(
                    f"{self._first} could not be reached on port {self._port} within {self._times.patience:.0f} s"
                    f" ({problem}): see its log, and whether the security groups of the job's VPC allow traffic between"
                    " its hosts."
                )
        await self._finishing.wait()

    def stop(self) -> None:
        """Request all hosts to stop; if the first one cannot be reached, try for a shorter time to do so."""
        if self._outcome.stop():
            self._send(Message("stop"))
            self._deadline = min(self._deadline, _now() + self._times.lost)

    def report(self, report: Report) -> None:
        """Send a failure of this host to the first one; only the first report counts."""
        if self._report is None and self._outcome.failure is None:
            self._report = report
            self._send(report_message(report, _now()))

    def finish(self, report: Report | None) -> None:
        """Record that the processes of this host have ended, with the failure of this host if there is one."""
        if report is not None:
            self.report(report)
        self._finishing.set()
        self._send(Message("finished"))

    async def _attempt(self) -> str | None:
        """Connect, and stay connected; return the reason why the connection ended before the job, if it did."""
        timeout = max(min(_ATTEMPT_SECONDS, self._deadline - _now()), 0.1)
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(self._first, self._port, limit=LINE_LIMIT)
        except TimeoutError:
            return f"no answer within {timeout:.0f} s"
        except OSError as error:
            return _reason(error)
        connection = Connection(reader, writer, accepted=False)
        try:
            return await self._talk(connection)
        finally:
            self._connection = None
            connection.close()

    async def _talk(self, connection: Connection) -> str | None:
        connection.send(hello_message(self._info))
        self._connection = connection
        if self._outcome.stop_requested:
            self._send(Message("stop"))
        if self._report is not None:
            self._send(report_message(self._report, _now()))
        if self._finishing.is_set():
            self._send(Message("finished"))
        receiving = asyncio.create_task(self._receive(connection))
        heartbeats = asyncio.create_task(connection.send_heartbeats(self._times.heartbeat, self._times.lost))
        try:
            await asyncio.wait({receiving, heartbeats}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                return f"has not answered for {self._times.lost:.0f} s: see its log and the instance's metrics"
            receiving.result()
        finally:
            receiving.cancel()
            heartbeats.cancel()
        if not self._ended:
            return "ended without a result: see its log, and its memory and disk metrics"
        await self._wait_for_exit(connection)
        return None

    async def _receive(self, connection: Connection) -> None:
        """Handle messages until the job ends or the connection closes; an invalid message closes it."""
        try:
            while not self._ended and (message := await connection.receive()) is not None:
                self._handle(connection, message)
        except MessageError as error:
            logger.warning("%s sent an invalid message: %s", self._first, error)

    def _handle(self, connection: Connection, message: Message) -> None:
        if message.kind == "members":
            hosts = members_of(message)
            self._complete = True
            self._outcome.set_members(Members(hosts, self._info.name, connection.address))
        elif message.kind == "stop":
            self._outcome.stop()
        elif message.kind in ("failure", "refusal", "end"):
            failure = failure_of_message(message)
            if failure is None and message.kind != "end":
                raise MessageError(f"{message.kind} without a failure")
            if failure is not None:
                self._outcome.fail(failure)
            elif self._report is not None:
                logger.warning("The job succeeded before this failure: %s", self._report.failure.message)
            elif not self._finishing.is_set():
                # The job is complete, but processes of this host are still running.
                self._outcome.stop()
            self._ended = message.kind != "failure"
            self._refused = message.kind == "refusal"

    async def _wait_for_exit(self, connection: Connection) -> None:
        """Wait until the process of the first host has ended, and a little longer."""
        if not self._refused:
            with suppress(TimeoutError, MessageError):
                async with asyncio.timeout(self._times.exit):
                    while await connection.receive() is not None:
                        pass
            await asyncio.sleep(self._times.linger)

    def _decide_alone(self, cause: str | None) -> None:
        """End this host without the first one: with its own failure if it is the earlier one, else with `cause`."""
        self._ended = True
        failures = FirstFailure(0.0, 0.0)
        if self._report is not None:
            failures.add(self._report, _now())
        if cause is not None:
            failures.add(Report(failure_of(PlatformError(cause)), _now()), _now())
        failure = failures.selected()
        if failure is not None:
            self._outcome.fail(failure)

    def _send(self, message: Message) -> None:
        if self._connection is not None:
            self._connection.send(message)


def _reason(error: OSError) -> str:
    # asyncio replaces the text of the system, but not that of the resolver.
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _now() -> float:
    return asyncio.get_running_loop().time()
