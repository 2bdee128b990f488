"""Hosts of one start of a job: started together, interrupted, and ended together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sagemaker_simulator.configuration import RequestError
from sagemaker_simulator.interruptions import LINK_KINDS, Interruption
from sagemaker_simulator.log import LineWatch, LogOptions
from sagemaker_simulator.machine import Machine, MachineOptions
from sagemaker_simulator.network import HostNetwork
from sagemaker_simulator.plan import StopRequest, TrainingJob

_POLL_SECONDS = 0.005
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a mount point


@dataclass(slots=True)
class _LinkFault:
    """A fault of a link.

    Attributes:
        host: Host of the link.
        end: Time at which the link is restored, on the monotonic clock; `None` for never.
    """

    host: str
    end: float | None


class Cluster:
    """One machine per host of a job; a job with a single host runs without namespaces.

    Attributes:
        machines: The machines in the order of their hosts' names.
        interruption_time: Time at which the interruption began, on the monotonic clock.
    """

    def __init__(self, job: TrainingJob, root: Path, interruption: Interruption | None = None) -> None:
        """Start the job on all hosts.

        Args:
            job: The job.
            root: Folder used as `/opt/ml`; with several hosts, one subfolder per host is.
            interruption: Interruption that will be applied.

        Raises:
            RequestError: The hosts cannot be created, or the interruption does not apply to this job.
        """
        self._failure_seconds = job.hosts.failure_seconds
        moment = None if interruption is None else interruption.moment
        self._watch = LineWatch() if moment is None else LineWatch(moment.pattern, moment.occurrence)
        self._limit: float | None = None
        self._link_fault: _LinkFault | None = None
        self.machines: list[Machine] = []
        self.interruption_time: float | None = None
        _check_hosts(job, root)
        _check_interruption(job, interruption)
        self._network = _create_network(job, interruption)
        try:
            self._start(job, root)
        except BaseException:
            self.destroy()
            raise

    def wait(self, interruption: Interruption | None, stop: StopRequest | None) -> Interruption | None:
        """Wait until all hosts have ended by themselves, or until an interruption is due, which is returned.

        Hosts that run for too long after the failure of another one are killed.
        """
        due = None
        while not self._have_ended(_POLL_SECONDS):
            if stop is not None and stop.submitted:
                return stop.interruption()
            self._end_link_fault()
            if self._limit is not None and time.monotonic() > self._limit:
                self._kill_stragglers()
            if interruption is None:
                continue
            if due is None and (interruption.moment.pattern is None or self._watch.matched.is_set()):
                start = self.started if interruption.moment.pattern is None else time.monotonic()
                due = start + interruption.moment.seconds
            if due is not None and self._is_due(due, interruption):
                return interruption
        return None

    def interrupt(self, interruption: Interruption, stop: StopRequest | None = None) -> Interruption:
        """Apply the interruption, wait for the end of the job, and return the interruption that ended it."""
        self.interruption_time = time.monotonic()
        targets = self._targets(interruption)
        if interruption.kind in LINK_KINDS:
            self._disturb_link(targets[0].name, interruption)
        elif interruption.kind == "kill_rank":
            targets[0].process.kill_rank(interruption.rank)
        elif interruption.kind == "kill":
            self._lose(targets)
        else:
            self._terminate(targets, interruption)
        stopped = self.wait(None, None if interruption.kind == "stop" else stop)
        if stopped is not None:
            self._terminate(self.machines, stopped)
        self.finish()
        return stopped or interruption

    def finish(self) -> None:
        """Upload the files of all machines that were not lost."""
        for machine in self.machines:
            machine.finish()

    def destroy(self) -> None:
        """Lose all machines."""
        self._lose(self.machines)
        if self._network is not None:
            self._network.close()

    @property
    def started(self) -> float:
        """Time at which the first host started, on the monotonic clock."""
        return min(machine.process.started for machine in self.machines)

    @property
    def ended(self) -> float:
        """Time at which the last host ended, on the monotonic clock; now, while one runs."""
        return max(machine.process.ended for machine in self.machines)

    def _start(self, job: TrainingJob, root: Path) -> None:
        names = job.hosts.names
        for number, log in enumerate(job.storage.next_logs(names)):
            name, has_network = names[number], self._network is not None
            options = MachineOptions(
                root / name if has_network else root,
                LogOptions(log, job.echo, f"{name} | " if has_network else ""),
                self._watch,
                () if self._network is None else self._network.enter(name),
            )
            self.machines.append(Machine(job.on_host(number), options))

    def _running(self) -> Iterator[Machine]:
        return (machine for machine in self.machines if not machine.process.wait(0.0))

    def _have_ended(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the end of all hosts, and return whether they have ended.

        A container's processes end with its first one.
        """
        running = next(self._running(), None)
        if running is not None:
            running.process.wait(timeout)
        for machine in self.machines:
            if machine.settle() and machine.process.exit_code:
                self._limit = self._limit or machine.process.ended + self._failure_seconds
        return next(self._running(), None) is None

    def _targets(self, interruption: Interruption) -> list[Machine]:
        if interruption.host is not None:
            return [machine for machine in self.machines if machine.name == interruption.host]
        return self.machines

    def _is_due(self, due: float, interruption: Interruption) -> bool:
        """Wait until `due` if it is close; return whether it is reached with the job still running."""
        remaining = due - time.monotonic()
        target = self._targets(interruption)[0]
        if interruption.host is None:
            target = next(self._running(), target)
        return remaining <= _POLL_SECONDS and not target.process.wait(max(0.0, remaining))

    def _terminate(self, targets: list[Machine], interruption: Interruption) -> None:
        """Send SIGTERM to the targets, and end them after the grace period; unless stopped, they are then lost."""
        deadline = time.monotonic() + interruption.grace_seconds
        for machine in targets:
            machine.send_sigterm()
        if interruption.kind == "reclaim_twice" and not self._wait_for(targets, interruption.repeat_seconds):
            for machine in targets:
                machine.send_sigterm()
        self._wait_for(targets, max(0.0, deadline - time.monotonic()))
        for machine in targets:
            if interruption.kind == "stop":
                machine.was_killed = not machine.process.wait(0.0)
            elif machine.process.wait(0.0):
                machine.finish(deadline)
        if interruption.kind == "stop":
            for machine in targets:
                machine.finish()
        else:
            self._lose(targets)

    def _wait_for(self, targets: list[Machine], timeout: float) -> bool:
        """Wait up to `timeout` seconds; return whether the targets have ended."""
        deadline = time.monotonic() + timeout
        while not all(machine.process.wait(0.0) for machine in targets):
            remaining = deadline - time.monotonic()
            if remaining <= 0.0:
                return False
            self._have_ended(min(remaining, _POLL_SECONDS))
        return True

    def _lose(self, machines: list[Machine]) -> None:
        """Lose machines like hosts without power: they disappear from the network without closing connections."""
        if self._network is not None:
            for machine in machines:
                self._network.cut(machine.name)
            for machine in machines:
                machine.was_killed = machine.was_killed or not machine.process.wait(0.0)
                self._network.kill(machine.name)
        for machine in machines:
            machine.destroy()
        self._limit = self._limit or time.monotonic() + self._failure_seconds

    def _kill_stragglers(self) -> None:
        for machine in self._running():
            machine.was_killed = True
            machine.process.destroy()

    def _disturb_link(self, host: str, interruption: Interruption) -> None:
        assert self._network is not None  # noqa: S101 - checked at the start
        if interruption.kind == "cut":
            self._network.cut(host)
            if interruption.duration_seconds is None:
                self._limit = self._limit or time.monotonic() + self._failure_seconds
        elif interruption.kind == "slow":
            self._network.slow_down(host, interruption.extent * 1e6)
        elif interruption.kind == "delay":
            self._network.delay(host, interruption.extent / 1e3)
        else:
            self._network.lose(host, interruption.extent / 100)
        duration = interruption.duration_seconds
        self._link_fault = _LinkFault(host, None if duration is None else time.monotonic() + duration)

    def _end_link_fault(self) -> None:
        fault = self._link_fault
        if self._network is not None and fault is not None and fault.end is not None and time.monotonic() >= fault.end:
            self._network.restore(fault.host)
            self._link_fault = None


def _check_hosts(job: TrainingJob, root: Path) -> None:
    if job.hosts.count == 1:
        return
    if job.container is not None:
        raise RequestError("several hosts of an image are not supported; use the local mode of one of the SDKs")
    if len(job.request.resources.hosts) > 1:
        raise RequestError("the request describes one of several hosts; leave its resources to `hosts`")
    if root.absolute().is_relative_to(_SHARED_MEMORY):
        raise RequestError(f"{root}: each of several hosts has its own {_SHARED_MEMORY}; use another folder")


def _check_interruption(job: TrainingJob, interruption: Interruption | None) -> None:
    if interruption is None:
        return
    if interruption.kind in LINK_KINDS and job.hosts.count == 1:
        raise RequestError(f"interruption {interruption.kind!r} needs a job with several hosts")
    if interruption.kind == "stop" and interruption.host is not None:
        raise RequestError("interruption 'stop' applies to all hosts")
    if interruption.host is not None and interruption.host not in job.hosts.names:
        names = ", ".join(job.hosts.names)
        raise RequestError(f"interruption of host {interruption.host!r}: the hosts are {names}")


def _create_network(job: TrainingJob, interruption: Interruption | None) -> HostNetwork | None:
    if job.hosts.count == 1:
        return None
    interface = job.request.resources.network_interface
    network = HostNetwork(job.hosts.names, interface, job.hosts.names_delay_seconds)
    try:
        if interruption is not None:
            network.require(interruption.kind)
    except RequestError:
        network.close()
        raise
    return network
