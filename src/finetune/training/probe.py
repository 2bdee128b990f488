"""Somebody who looks at a step from inside, and changes nothing."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from finetune.monitoring.rules.finding import Finding


class Probe(Protocol):
    """Looks at some of the steps."""

    @property
    def looking(self) -> bool:
        """Whether this step is looked at."""
        ...

    def begin(self, step: int) -> None:
        """A step begins."""
        ...

    def graded(self) -> None:
        """The gradients are there, unscaled; the weights are still those of before."""
        ...

    def updated(self, loss: Tensor) -> list[Finding]:
        """The weights are new; what an earlier look showed, so that nothing waits for this one."""
        ...

    def read(self) -> list[Finding]:
        """What the last look shows; waits for the device."""
        ...

    @property
    def refuted(self) -> frozenset[str]:
        """Rules that found something before, and nothing in the last look that was read."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What an interruption must not lose."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take up what `state_dict` gave, of whichever probe."""
        ...


class NoProbe:
    """Looks at nothing."""

    looking = False
    refuted: frozenset[str] = frozenset()

    def begin(self, step: int) -> None:
        """Let it pass."""

    def graded(self) -> None:
        """Let it pass."""

    def updated(self, loss: Tensor) -> list[Finding]:
        """Nothing."""
        del loss
        return []

    def read(self) -> list[Finding]:
        """Nothing."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Let it pass."""
