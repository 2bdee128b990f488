"""The processes that train a job together, and what they tell each other besides gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import ProcessGroup

from finetune.errors import PlatformError
from finetune.runtime.computations import waiting

_T = TypeVar("_T")


class ProcessLostError(PlatformError):
    """Another process of the job has failed, has ended or cannot be reached; its own failure is the cause."""


class HostLevels(NamedTuple):
    """Process groups for exchanges in two levels: within each host, and between hosts.

    Attributes:
        local: The processes of this host.
        between: The processes of all hosts with the local rank of this one.
    """

    local: ProcessGroup
    between: ProcessGroup


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train a job together, one per device, and the place of this process among them.

    The default is a job of a single process, which needs no process group. All processes call the methods in the same
    order; each method waits for all of them.

    Attributes:
        rank: Index of this process among all processes of the job.
        size: Number of processes of the job.
        local_rank: Index of this process among the processes of its host, and of its device.
        local_size: Number of processes of the job on this host.
        host: Index of this host among the hosts of the job.
        hosts: Number of hosts of the job.
        group: Process group of exactly these processes; `None` for all processes that the launcher started.
        levels: Process groups by host; `None` for a single host, or one process per host.
        threads: Number of CPU threads that all processes of the job may use together; `None` for those of this process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: int = 0
    hosts: int = 1
    group: ProcessGroup | None = None
    levels: HostLevels | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.local_rank <= self.rank < self.size:
            raise ValueError(
                f"rank {self.rank} and local rank {self.local_rank} do not exist in a world of {self.size}"
            )

    @property
    def spans_hosts(self) -> bool:
        """Whether the job has processes on other hosts."""
        return self.local_size < self.size

    def is_local(self, rank: int) -> bool:
        """Return whether a process is on the host of this one."""
        first = self.rank - self.local_rank
        return first <= rank < first + self.local_size

    @property
    def is_main(self) -> bool:
        """Whether this process writes the outputs of the job: log, checkpoints, metrics, report and artifact."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes have called this method.

        Raises:
            ProcessLostError: Another process has ended.
        """
        self.sum_integers([0])

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process.

        Raises:
            ProcessLostError: Another process has ended.
        """
        return self.sum_integers([int(flag)])[0] > 0

    def raise_in_all(self, failure: Exception | None) -> None:
        """Fail in all processes if one of them has failed, so that none waits for it if the failure is caught.

        Raises:
            Exception: The failure of this process, if there is one.
            ProcessLostError: Another process has failed or ended.
        """
        if self.any(failure is not None):
            messages = self.all_gather("" if failure is None else f"{type(failure).__name__}: {failure}")
            if failure is None:
                raise ProcessLostError(f"Another process of the job failed: {next(filter(None, messages))}")
        if failure is not None:
            raise failure

    def sum_integers(self, values: Sequence[int]) -> list[int]:
        """Return the sums of the values over all processes.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.size == 1:
            return list(values)
        # A tensor on the host: with NCCL for GPUs, the exchange uses gloo and does not wait for the device.
        message = torch.tensor(values, dtype=torch.int64)
        with lost_processes():
            torch.distributed.all_reduce(message, group=self.group)
        return cast("list[int]", message.tolist())

    def union(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the flags are set in any process; all processes give the same number of flags.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.size == 1 or not len(flags):
            return flags
        message = torch.from_numpy(flags.astype(np.uint8))
        with lost_processes():
            torch.distributed.all_reduce(message, torch.distributed.ReduceOp.MAX, group=self.group)
        return message.numpy().astype(np.bool_)

    def copy_from(self, rank: int, tensor: Tensor) -> None:
        """Overwrite a contiguous tensor by that of another process, of the same type, shape and kind of device.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.size == 1 or not tensor.numel():
            return
        # All backends can exchange bytes, but not all types.
        with lost_processes():
            torch.distributed.broadcast(tensor.view(-1).view(torch.uint8), group=self.group, group_src=rank)

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all processes by rank in the main process, and an empty list in the others.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        with lost_processes():
            torch.distributed.gather_object(value, values, group=self.group, group_dst=0)
        return values or []

    def all_gather(self, value: _T) -> list[_T]:
        """Return the values of all processes by rank.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with lost_processes():
            torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def gather_from_hosts(self, value: _T) -> list[_T]:
        """Return the value of the first process of each host, by host; those of the others are ignored.

        Raises:
            ProcessLostError: Another process has ended.
        """
        sent = self.all_gather(None if self.local_rank else (value,))
        return [received[0] for received in sent if received is not None]

    def broadcast(self, value: _T) -> _T:
        """Return the value of the main process; those of the others are ignored.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with lost_processes():
            torch.distributed.broadcast_object_list(values, group=self.group, group_src=0)
        return cast("_T", values[0])

    def first(self, size: int) -> World | None:
        """Return the world of the first `size` processes; `None` in the other processes.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if size >= self.size:
            return self
        with lost_processes():
            group = torch.distributed.new_group(list(range(size)))
        if self.rank >= size:
            return None
        local_size = min(self.local_size, self.local_rank + size - self.rank)
        hosts = -(-size // self.local_size)
        smaller = replace(self, size=size, local_size=local_size, hosts=hosts, group=group, levels=None)
        return smaller if size % self.local_size else smaller.with_levels()

    def with_levels(self) -> World:
        """Return the same world with process groups by host; all hosts have the same number of processes.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.hosts == 1 or self.local_size == 1:
            return self
        first = self.host * self.local_size
        local = range(first, first + self.local_size)
        between = range(self.local_rank, self.size, self.local_size)
        with lost_processes():
            levels = HostLevels(
                # Only members make a group: other processes of the job may have ended.
                torch.distributed.new_group(list(local), use_local_synchronization=True),
                torch.distributed.new_group(list(between), use_local_synchronization=True),
            )
        return replace(self, levels=levels)


@contextmanager
def lost_processes() -> Iterator[None]:
    """Raise the errors of collective operations in the block as `ProcessLostError`; note that it waits for others."""
    try:
        with waiting():
            yield
    except RuntimeError as error:
        cause = next(iter(str(error).splitlines()), "")
        raise ProcessLostError(f"Another process of the job has ended or cannot be reached: {cause}") from error
