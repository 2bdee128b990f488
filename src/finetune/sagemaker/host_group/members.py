"""The hosts of a job and their devices, as each host describes itself, and the ranks that follow."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from finetune.errors import UserError

logger = logging.getLogger(__name__)

_SHOWN_DIFFERENCES = 5
_GB = 1e9


@dataclass(frozen=True, slots=True)
class HostInfo:
    """Description of a host that takes part in a job.

    Attributes:
        name: as in `resourceconfig.json`.
        devices: number of devices, which is the number of processes that train on this host.
        device_model: such as `NVIDIA A10G`; `None` for a CPU.
        device_memory_bytes: memory of one device, 0 if unknown.
        version: version of this package.
        request: digests of the settings that must be equal on all hosts, by name; see `request_digests`.
    """

    name: str
    devices: int = 1
    device_model: str | None = None
    device_memory_bytes: int = 0
    version: str = ""
    request: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Name and devices in a few words."""
        model = self.device_model or "CPU"
        memory = f" with {self.device_memory_bytes / _GB:.0f} GB" if self.device_memory_bytes else ""
        return f"{self.name}: {self.devices} x {model}{memory}"


@dataclass(frozen=True, slots=True)
class Members:
    """All hosts of a job, once all of them have connected.

    Attributes:
        hosts: in the order of `resourceconfig.json`.
        current_host: name of this host.
        first_address: address at which the other hosts reach the first one, for `MASTER_ADDR`.
    """

    hosts: tuple[HostInfo, ...]
    current_host: str
    first_address: str

    @property
    def world_size(self) -> int:
        """Number of processes of the job."""
        return sum(host.devices for host in self.hosts)

    @property
    def host_index(self) -> int:
        """Index of this host."""
        return [host.name for host in self.hosts].index(self.current_host)

    @property
    def first_rank(self) -> int:
        """Rank of the first process of this host: ranks are ordered by host, then by local rank."""
        return sum(host.devices for host in self.hosts[: self.host_index])


def request_digests(hyperparameters: Mapping[str, str], channels: Iterable[str]) -> dict[str, str]:
    """Digests of hyperparameters and channel names, by name, to find differences between hosts.

    Args:
        hyperparameters: as delivered by the platform.
        channels: names of the channels.
    """
    digests = {f"hyperparameter {name}": _digest(value) for name, value in hyperparameters.items()}
    return digests | {f"channel {name}": "" for name in channels}


def check_same_request(first: HostInfo, other: HostInfo) -> None:
    """Check that two hosts run the same version with the same request.

    Raises:
        UserError: they do not; the message names the settings.
    """
    if first.version != other.version:
        raise UserError(
            f"{other.name} runs version {other.version!r} of this image, {first.name} runs {first.version!r}: use the"
            " same image on all hosts."
        )
    names = sorted(first.request.keys() | other.request.keys())
    different = [name for name in names if first.request.get(name) != other.request.get(name)]
    if different:
        shown = ", ".join(different[:_SHOWN_DIFFERENCES])
        more = len(different) - _SHOWN_DIFFERENCES
        raise UserError(
            f"The requests of {first.name} and {other.name} differ in {shown}"
            f"{f' and {more} more' if more > 0 else ''}: start all hosts with the same hyperparameters and channels."
        )


def log_members(members: Members) -> None:
    """Log all hosts, and warn about different devices."""
    shown = "; ".join(map(str, members.hosts))
    logger.info("%d hosts with %d devices: %s.", len(members.hosts), members.world_size, shown)
    models = sorted({host.device_model or "CPU" for host in members.hosts})
    if len(models) > 1:
        logger.warning(
            "The hosts have different devices (%s): each step takes as long as on the slowest, and results differ in"
            " the last digits from those on equal devices.",
            ", ".join(models),
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
