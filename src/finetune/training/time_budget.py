"""Time after which no further epoch begins (`max_minutes`)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from finetune.distributed.world import World

logger = logging.getLogger(__name__)


class TimeBudget:
    """Decides after each epoch whether the next one would probably end in time, if it takes as long."""

    def __init__(self, minutes: float | None, elapsed: Callable[[], float], world: World) -> None:
        """Start the first epoch.

        Args:
            minutes: The budget; `None` for an unlimited one.
            elapsed: Returns the seconds that the job has taken so far, over all of its starts.
            world: The processes of the job, of which the main process decides.
        """
        self._minutes = minutes
        self._elapsed = elapsed
        self._world = world
        self._epoch_began = elapsed()

    def used_up(self) -> bool:
        """Return whether no further epoch may begin; called by all processes after each epoch."""
        if self._minutes is None:
            return False
        now = self._elapsed()
        expected_end, self._epoch_began = now + (now - self._epoch_began), now
        used_up = self._world.broadcast(expected_end > 60 * self._minutes)
        if used_up:
            logger.info("max_minutes=%g: no further epoch begins after %.1f minutes", self._minutes, now / 60)
        return used_up
