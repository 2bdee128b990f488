"""Learning rate schedule as a pure function of the step, without state to save or replay."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from finetune.config.hyperparameters import ScheduleName


@dataclass(frozen=True, slots=True)
class Schedule:
    """Factor by which peak learning rates are multiplied.

    Attributes:
        name: Shape of the decay after warm-up.
        total_steps: Optimizer steps of the whole job.
        steps_per_epoch: Optimizer steps per epoch, for `step`, whose borders are epochs.
        warmup_steps: Steps over which the factor rises linearly to 1.
        borders: Epochs after which `step` multiplies by `factor`.
        factor: Factor per border for `step`; final factor of the job for `exponential`.
    """

    name: ScheduleName
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int = 0
    borders: tuple[int, ...] = ()
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        """Return the factor in [0, 1] for optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        match self.name:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 - done
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * done))
            case "exponential":
                return float(self.factor**done)
            case "step":
                return float(self.factor ** bisect_right(self.borders, step // max(1, self.steps_per_epoch)))
