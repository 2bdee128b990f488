"""The processes that train a job together."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train a job together, one per device, and the place of this process among them.

    The default is a job of a single process, which needs no process group.

    Attributes:
        rank: Index of this process among all processes of the job.
        size: Number of processes of the job.
        local_rank: Index of this process among the processes of its host, and of its device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.local_rank <= self.rank < self.size:
            raise ValueError(
                f"rank {self.rank} and local rank {self.local_rank} do not exist in a world of {self.size}"
            )

    @property
    def is_main(self) -> bool:
        """Whether this process writes the outputs of the job: log, checkpoints, metrics, report and artifact."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes have called this method."""
        if self.size > 1:
            torch.distributed.barrier()
