"""Read-only hooks into the training step."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from finetune.monitoring.rules.finding import Finding


class Probe(Protocol):
    """Inspects a sample of the steps."""

    @property
    def is_sampling(self) -> bool:
        """Whether this step is sampled."""
        ...

    def begin(self, step: int) -> None:
        """Start a step."""
        ...

    def after_backward(self) -> None:
        """Inspect the unscaled gradients before the optimizer step."""
        ...

    def after_step(self, loss: Tensor) -> list[Finding]:
        """Inspect the updated weights; return the findings of an earlier sample, to avoid a device sync."""
        ...

    def read(self) -> list[Finding]:
        """Return the findings of the most recent sample; synchronizes with the device."""
        ...

    @property
    def refuted(self) -> frozenset[str]:
        """Rules with earlier findings that the most recent sample no longer confirms."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state to checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore the state of any kind of probe."""
        ...


class NoProbe:
    """Probe that samples no step."""

    is_sampling = False
    refuted: frozenset[str] = frozenset()

    def begin(self, step: int) -> None:
        """Do nothing."""

    def after_backward(self) -> None:
        """Do nothing."""

    def after_step(self, loss: Tensor) -> list[Finding]:
        """Return no findings."""
        del loss
        return []

    def read(self) -> list[Finding]:
        """Return no findings."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Do nothing."""
