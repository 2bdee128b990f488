"""Compares how long the processes of a job wait for their data and for each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune.distributed.world import World
from finetune.monitoring.rules.machine import ProcessTimes
from finetune.monitoring.timing import Timing

_STEP_PARTS = ("data", "exchange", "forward", "backward", "update")


@dataclass(slots=True)
class ProcessWatch:
    """Collects the times of all processes in the main process.

    Attributes:
        world: The processes of the job.
        timing: Time spent by part of the step in this process.
        processes: In the main process, the times of all processes by rank up to the last epoch; none for a single
            process.
    """

    world: World
    timing: Timing
    processes: list[ProcessTimes] = field(default_factory=list)

    def epoch_done(self) -> None:
        """Collect the times; called by all processes.

        Raises:
            ProcessLostError: Another process has ended.
        """
        if self.world.size == 1:
            return
        seconds = self.timing.snapshot()
        total = sum(seconds[part] for part in _STEP_PARTS)
        self.processes[:] = self.world.gather(ProcessTimes(seconds["data"], seconds["exchange"], total))
