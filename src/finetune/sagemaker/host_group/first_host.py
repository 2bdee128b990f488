"""The first host of a group: accepts the others, selects the first failure, and announces stops and the end."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass

from finetune.errors import PlatformError, UserError
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.failure import Failure, failure_of
from finetune.sagemaker.host_group.connection import Connection
from finetune.sagemaker.host_group.first_failure import FirstFailure, Report
from finetune.sagemaker.host_group.members import HostInfo, Members, check_same_request, log_members
from finetune.sagemaker.host_group.messages import (
    LINE_LIMIT,
    Message,
    MessageError,
    failure_content,
    hello_of,
    members_message,
    report_of,
)
from finetune.sagemaker.host_group.outcome import Outcome, Times

logger = logging.getLogger(__name__)

_MAX_PENDING = 256
"""Connections without a hello that are kept open at a time, besides one per host."""
_POLL_SECONDS = 0.05
_FLUSH_SECONDS = 5.0


@dataclass(slots=True)
class _Other:
    """Another host that has connected."""

    info: HostInfo
    connection: Connection
    finished: bool = False
    gone: bool = False


class FirstHost:
    """Server of the group; all methods run in its event loop.

    Args:
        resources: names of the hosts.
        info: description of this host.
        times: durations.
        outcome: where to record the state of the job.
        listener: the open port.
    """

    def __init__(
        self, resources: Resources, info: HostInfo, times: Times, outcome: Outcome, listener: socket.socket
    ) -> None:
        self._names = resources.hosts
        self._info = info
        self._times = times
        self._outcome = outcome
        self._listener = listener
        self._others: dict[str, _Other] = {}
        self._complete = False
        self._succeeded = False
        self._pending = 0
        self._failures = FirstFailure(times.settle, times.lost)
        self._selection: asyncio.TimerHandle | None = None
        self._selected = asyncio.Event()
        self._finishing = asyncio.Event()

    async def run(self) -> None:
        """Serve the other hosts until this one has finished and they have received the result."""
        started = asyncio.get_running_loop().time()
        server = await asyncio.start_server(self._serve, sock=self._listener, limit=LINE_LIMIT)
        patience = asyncio.create_task(self._limit_patience())
        try:
            await self._finishing.wait()
            await self._end(started + self._times.late_start)
        finally:
            patience.cancel()
            server.close()

    def stop(self) -> None:
        """Request all hosts to stop."""
        if self._outcome.stop():
            self._broadcast(Message("stop"))

    def report(self, report: Report) -> None:
        """Consider a failure of any host; ignored once the first failure is selected, or the job has succeeded."""
        if self._selected.is_set():
            return
        if self._succeeded:
            logger.warning("Ignored, since the job had succeeded before: %s", report.failure.message.splitlines()[0])
            return
        loop = asyncio.get_running_loop()
        self._failures.add(report, loop.time())
        if self._selection is not None:
            self._selection.cancel()
        self._selection = loop.call_at(self._failures.deadline, self._select)

    def finish(self, report: Report | None) -> None:
        """Record that the processes of this host have ended, with the failure of this host if there is one."""
        if report is not None:
            self.report(report)
        self._succeeded = self._failures.selected() is None
        self._finishing.set()

    def _select(self) -> None:
        failure = self._failures.selected()
        if failure is not None and not self._selected.is_set():
            self._selected.set()
            self._outcome.fail(failure)
            self._broadcast(Message("failure", failure_content(failure)))

    async def _end(self, late_deadline: float) -> None:
        if not self._succeeded:
            await self._selected.wait()
        await self._wait_for_late_hosts(late_deadline)
        await self._wait_for_finish()
        self._broadcast(Message("end", failure_content(self._outcome.failure)))
        await asyncio.gather(*(other.connection.flush(_FLUSH_SECONDS) for other in self._others.values()))
        for other in self._others.values():
            other.connection.keep_open()

    async def _wait_for_late_hosts(self, deadline: float) -> None:
        logged = False
        while (missing := self._missing()) and not self._outcome.stop_requested and _now() < deadline:
            if not logged:
                logger.info("%s have not connected yet: waiting for them.", ", ".join(missing))
            logged = True
            await asyncio.sleep(_POLL_SECONDS)

    async def _wait_for_finish(self) -> None:
        deadline = _now() + self._times.finish
        while running := [other for other in self._others.values() if not (other.finished or other.gone)]:
            if _now() > deadline:
                names = ", ".join(other.info.name for other in running)
                logger.warning("%s did not finish within %.0f s: not waiting for it.", names, self._times.finish)
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _limit_patience(self) -> None:
        await asyncio.sleep(self._times.patience)
        missing = self._missing()
        if missing and not self._outcome.stop_requested:
            port = self._listener.getsockname()[1]
            error = PlatformError(
                f"{', '.join(missing)} did not connect to port {port} of {self._info.name} within"
                f" {self._times.patience:.0f} s: see its log, and whether the security groups of the job's VPC allow"
                " traffic between its hosts."
            )
            self.report(Report(failure_of(error), _now()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, accepted=True)
        try:
            info = await self._receive_hello(connection)
            if info is not None:
                await self._serve_host(info, connection)
        except asyncio.CancelledError:
            pass  # at the end of the loop, where streams of Python 3.11 would report it as an error
        finally:
            connection.close()

    async def _receive_hello(self, connection: Connection) -> HostInfo | None:
        """The description of the host; `None` for a connection that does not come from one."""
        if self._pending >= _MAX_PENDING + len(self._names):
            return None
        self._pending += 1
        try:
            async with asyncio.timeout(self._times.hello):
                message = await connection.receive()
            return None if message is None else hello_of(message)
        except (TimeoutError, MessageError) as error:
            logger.debug("Ignored a connection from %s: %s", connection.peer, error)
            return None
        finally:
            self._pending -= 1

    async def _serve_host(self, info: HostInfo, connection: Connection) -> None:
        refusal = self._refusal(info)
        if refusal is not None:
            logger.warning("Refused a connection from %s: %s", connection.peer, refusal.message)
            connection.send(Message("refusal", failure_content(refusal)))
            await connection.flush(_FLUSH_SECONDS)
            return
        other = _Other(info, connection)
        self._add(other)
        heartbeats = asyncio.create_task(self._send_heartbeats(other))
        try:
            while (message := await connection.receive()) is not None:
                self._handle(other, message)
        except MessageError as error:
            logger.warning("%s sent an invalid message: %s", info.name, error)
        finally:
            heartbeats.cancel()
        self._on_close(other)

    def _refusal(self, info: HostInfo) -> Failure | None:
        others = self._names[1:]
        if info.name not in others:
            names = ", ".join(others)
            return failure_of(PlatformError(f"{info.name!r} is not among the other hosts of this job: {names}."))
        if not self._complete:
            return None
        return self._outcome.failure or failure_of(
            PlatformError(
                f"The job is running without this host: {info.name} had connected before and was then started again."
                " A job cannot take hosts back: start it again."
            )
        )

    def _add(self, other: _Other) -> None:
        """Add a host while not all have connected; a second connection of the same host replaces the first."""
        earlier = self._others.get(other.info.name)
        self._others[other.info.name] = other
        if earlier is not None:
            earlier.connection.close()
        if self._outcome.stop_requested:
            other.connection.send(Message("stop"))
        if self._outcome.failure is not None:
            other.connection.send(Message("failure", failure_content(self._outcome.failure)))
            return
        try:
            check_same_request(self._info, other.info)
        except UserError as error:
            self.report(Report(failure_of(error), _now()))
        if not self._missing() and self._failures.selected() is None:
            self._complete_members()

    def _complete_members(self) -> None:
        self._complete = True
        hosts = (self._info, *(self._others[name].info for name in self._names[1:]))
        self._broadcast(members_message(hosts))
        members = Members(hosts, self._info.name, self._others[self._names[1]].connection.address)
        log_members(members)
        self._outcome.set_members(members)

    def _handle(self, other: _Other, message: Message) -> None:
        if message.kind == "stop":
            self.stop()
        elif message.kind == "failure":
            self.report(report_of(message, _now()))
        elif message.kind == "finished":
            other.finished = True

    async def _send_heartbeats(self, other: _Other) -> None:
        await other.connection.send_heartbeats(self._times.heartbeat, self._times.lost)
        if not self._complete and self._outcome.failure is None:
            other.connection.close()
            return
        self._on_loss(other, f"has not answered for {self._times.lost:.0f} s: see its log and the instance's metrics")

    def _on_close(self, other: _Other) -> None:
        if self._others.get(other.info.name) is not other:
            return
        if not self._complete and self._outcome.failure is None:
            del self._others[other.info.name]
            return
        self._on_loss(other, "ended without a result: see its log, and its memory and disk metrics")

    def _on_loss(self, other: _Other, cause: str) -> None:
        """Record that a host is gone, which is a failure unless its processes had finished."""
        if other.gone:
            return
        other.gone = True
        if other.finished:
            logger.warning("%s %s. Its part of the job was complete.", other.info.name, cause)
        else:
            self.report(Report(failure_of(PlatformError(f"{other.info.name} {cause}.")), _now()))

    def _missing(self) -> list[str]:
        return [name for name in self._names[1:] if name not in self._others]

    def _broadcast(self, message: Message) -> None:
        for other in self._others.values():
            other.connection.send(message)


def _now() -> float:
    return asyncio.get_running_loop().time()
