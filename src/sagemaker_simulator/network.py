"""Network of a job with several hosts: a set of Linux namespaces per host, connected by a bridge.

Each host has its own network, process IDs, host name, `/etc/hosts` and `/dev/shm`; files are those of this machine. The
bridge is in a network namespace of its own, so this machine's interfaces, routes and firewall are not involved, and
jobs that run at the same time may use the same addresses.

Nothing has to be removed afterwards: a namespace exists as long as its processes, and these are killed by the system
when the first of them ends, which happens when the simulator ends, even by SIGKILL.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sagemaker_simulator.configuration import RequestError

_PROGRAMS = {
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
_FIRST_ADDRESS = ipaddress.IPv4Address("10.0.0.0")
_PREFIX_LENGTH = 16
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a mount point
_BRIDGE = "bridge0"
_MINIMUM_BURST_BYTES = 32 << 10
# The kernel's timer, with at least 100 ticks per second, must not run out of tokens between two ticks.
_TICKS_PER_SECOND = 100

# As process 1 of a host, `sleep` has to reap orphans, which the system does for a process that ignores SIGCHLD.
_STAY = "echo ready; exec env --ignore-signal=CHLD sleep infinity"
_HOST_SCRIPT = f"""set -e
hostname "$0"
mount --bind "$1" /etc/hosts
mount -t tmpfs tmpfs {_SHARED_MEMORY}
ip link set lo up
{_STAY}"""
_SWITCH_SCRIPT = f"""set -e
ip link add {_BRIDGE} type bridge forward_delay 0 stp_state 0
ip link set {_BRIDGE} up
{_STAY}"""


def reason_unavailable() -> str:
    """Return the reason for which this process cannot create hosts, with a remedy; empty if it can."""
    if sys.platform != "linux":
        return f"several hosts need Linux network namespaces, but this system is {sys.platform}"
    if os.geteuid() != 0:
        return (
            "several hosts need root, because each of them has network and process namespaces; the user ID of this "
            f"process is {os.geteuid()}: use sudo, or a container with --privileged"
        )
    missing = sorted(name for name in _PROGRAMS if shutil.which(name) is None)
    if missing:
        packages = ", ".join(sorted({_PROGRAMS[name] for name in missing}))
        return f"several hosts need the programs {', '.join(missing)}; install the packages {packages}"
    return ""


class _Namespaces:
    """New namespaces, kept by a process."""

    def __init__(self, options: Sequence[str], script: str, arguments: Sequence[str] = ()) -> None:
        """Create the namespaces and run a script in them that prints `ready` when it has set them up."""
        keeper = ("setpriv", "--pdeathsig", "KILL", "unshare", *options, "--fork", "--kill-child", "sh", "-c", script)
        self._process = subprocess.Popen(  # noqa: S603 - a constant script
            (*keeper, *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None  # noqa: S101 - implied by stdout=PIPE, but not by the type
        if self._process.stdout.readline() != "ready\n":
            self._process.kill()
            error = self._process.communicate()[1].strip()
            raise RequestError(f"the namespaces of several hosts cannot be created: {error}")

    @property
    def pid(self) -> int:
        """Process in the namespaces, except that of process IDs, which only its children are in."""
        return self._process.pid

    def run(self, *command: str, text: str = "") -> None:
        """Run a command in the network namespace.

        Raises:
            RequestError: It fails.
        """
        enter = ("nsenter", f"--target={self.pid}", "--net")
        result = subprocess.run((*enter, *command), input=text, capture_output=True, text=True, check=False)  # noqa: S603 - this module's commands
        if result.returncode:
            raise RequestError(f"{' '.join(command)}: {(result.stderr or result.stdout).strip()}")

    def close(self) -> None:
        """End the namespaces; for a host, with all its processes."""
        self._process.kill()
        self._process.communicate()


class HostNetwork:
    """Hosts that can reach each other by name, and nothing else."""

    def __init__(self, hosts: Sequence[str], interface: str = "eth0", names_delay_seconds: float = 0.0) -> None:
        """Create the hosts.

        Args:
            hosts: Their names.
            interface: Name of their network interface.
            names_delay_seconds: Seconds during which a host can resolve only its own name.

        Raises:
            RequestError: This process may not create them.
        """
        reason = reason_unavailable()
        if reason:
            raise RequestError(reason)
        self._interface = interface
        self._addresses = {name: str(_FIRST_ADDRESS + number) for number, name in enumerate(hosts, start=1)}
        self._folder = tempfile.TemporaryDirectory(prefix="simulated-hosts-")
        self._hosts: dict[str, _Namespaces] = {}
        self._switch: _Namespaces | None = None
        self._names = threading.Timer(names_delay_seconds, self._announce_names)
        self._names.daemon = True
        try:
            self._switch = _Namespaces(("--net",), _SWITCH_SCRIPT)
            for name in hosts:
                self._add_host(name)
            self._names.start() if names_delay_seconds else self._announce_names()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def enter(self, host: str) -> tuple[str, ...]:
        """Return the command that runs the command that follows it on a host, and exits with its exit code."""
        pid = self._hosts[host].pid
        namespaces = ("--net", "--mount", "--uts", "--ipc", f"--pid=/proc/{pid}/ns/pid_for_children")
        return ("nsenter", f"--target={pid}", *namespaces, "--")

    def cut(self, host: str) -> None:
        """Disconnect the host: nothing is sent or received, and no connection is closed."""
        if host in self._hosts:
            self._bridge.run("ip", "link", "set", host, "down")

    def slow_down(self, host: str, bits_per_second: float) -> None:
        """Limit the rate of the host's link in both directions."""
        self._shape(host, _limit_rate(bits_per_second))

    def delay(self, host: str, seconds: float) -> None:
        """Delay everything on the host's link, in both directions."""
        self._shape(host, _add_delay(seconds))

    def lose(self, host: str, fraction: float) -> None:
        """Lose a random fraction of the packets on the host's link, in both directions."""
        for name, namespaces in self._hosts.items():
            sender = () if name == host else ("-s", self._addresses[host])
            namespaces.run("iptables", "-A", "INPUT", "-i", self._interface, *sender, *_drop_packets(fraction))

    def restore(self, host: str) -> None:
        """Undo all faults of the host's link."""
        if host not in self._hosts:
            return
        for namespaces, interface in self._ends(host):
            namespaces.run("sh", "-c", 'tc qdisc del dev "$0" root 2>&1 || true', interface)
        for namespaces in self._hosts.values():
            namespaces.run("sh", "-c", "command -v iptables >/dev/null && iptables -F INPUT || true")
        self._bridge.run("ip", "link", "set", host, "up")

    def require(self, kind: str) -> None:
        """Check that links can be disturbed by `slow`, `delay` or `loss`.

        Raises:
            RequestError: The kernel or the machine does not support it.
        """
        trials = {
            "slow": ("tc", "qdisc", "replace", "dev", "lo", "root", *_limit_rate(1e6)),
            "delay": ("tc", "qdisc", "replace", "dev", "lo", "root", *_add_delay(0.001)),
            "loss": ("iptables", "-A", "INPUT", "-i", "lo", *_drop_packets(0.01)),
        }
        needs = {
            "slow": "sch_tbf in the kernel",
            "delay": "sch_netem in the kernel",
            "loss": "iptables with xt_statistic",
        }
        try:
            if kind in trials:
                self._bridge.run(*trials[kind])
        except RequestError as error:
            raise RequestError(f"a link can be disturbed by {kind!r} only with {needs[kind]}: {error}") from error

    def kill(self, host: str) -> None:
        """Kill all processes of the host; its connections are closed unless it is disconnected."""
        if host in self._hosts:
            self._hosts.pop(host).close()

    def close(self) -> None:
        """End all hosts with their processes, and the network."""
        self._names.cancel()
        for namespaces in (*self._hosts.values(), *((self._switch,) if self._switch else ())):
            namespaces.close()
        self._folder.cleanup()

    @property
    def _bridge(self) -> _Namespaces:
        assert self._switch is not None  # noqa: S101 - it is created before any host
        return self._switch

    def _add_host(self, name: str) -> None:
        self._write_names(name, (name,))
        options = ("--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc")
        host = self._hosts[name] = _Namespaces(options, _HOST_SCRIPT, (name, str(self._hosts_file(name))))
        self._bridge.run(
            *("ip", "-batch", "-"),
            text=f"link add name {name} type veth peer name {self._interface} netns {host.pid}\n"
            f"link set {name} master {_BRIDGE} up\n",
        )
        host.run(
            *("ip", "-batch", "-"),
            text=f"addr add {self._addresses[name]}/{_PREFIX_LENGTH} dev {self._interface}\n"
            f"link set {self._interface} up\n",
        )

    def _announce_names(self) -> None:
        for name in tuple(self._hosts):
            self._write_names(name, self._addresses)

    def _write_names(self, host: str, names: Iterable[str]) -> None:
        """Write a host's `/etc/hosts` in place, because it is mounted."""
        lines = ["127.0.0.1 localhost", *(f"{self._addresses[name]} {name}" for name in names)]
        self._hosts_file(host).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _hosts_file(self, host: str) -> Path:
        return Path(self._folder.name, host)

    def _shape(self, host: str, shaping: Sequence[str]) -> None:
        for namespaces, interface in self._ends(host):
            namespaces.run("tc", "qdisc", "replace", "dev", interface, "root", *shaping)

    def _ends(self, host: str) -> tuple[tuple[_Namespaces, str], ...]:
        """The two ends of the host's link."""
        return ((self._bridge, host), (self._hosts[host], self._interface))


def _limit_rate(bits_per_second: float) -> tuple[str, ...]:
    burst = max(_MINIMUM_BURST_BYTES, int(bits_per_second / 8 / _TICKS_PER_SECOND))
    return ("tbf", "rate", f"{bits_per_second:.0f}bit", "burst", f"{burst}b", "latency", "100ms")


def _add_delay(seconds: float) -> tuple[str, ...]:
    return ("netem", "delay", f"{seconds * 1000:.3f}ms")


def _drop_packets(fraction: float) -> tuple[str, ...]:
    return ("-m", "statistic", "--mode", "random", "--probability", f"{fraction:.6f}", "-j", "DROP")
