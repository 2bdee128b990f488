"""Keeps failures of the rules about tensors from ending the training that they watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.tensors import TensorWatch
from finetune.runtime.optional import Guard


@dataclass(slots=True)
class GuardedProbe:
    """A probe that looks at no further step after its first failure, such as no memory for a copy of the weights."""

    inner: TensorWatch
    guard: Guard = field(default_factory=lambda: Guard("Watching tensors by rules"))

    @property
    def looking(self) -> bool:
        """Whether this step is looked at."""
        return self.inner.looking

    @property
    def refuted(self) -> frozenset[str]:
        """Rules that found something before, and nothing in the last look that was read."""
        return self.inner.refuted

    def begin(self, step: int) -> None:
        """A step begins."""
        self._guarded(self.inner.begin, step)

    def graded(self) -> None:
        """The gradients are there, unscaled; the weights are still those of before."""
        self._guarded(self.inner.graded)

    def updated(self, loss: Tensor) -> list[Finding]:
        """The weights are new; what an earlier look showed."""
        found: list[Finding] = []
        self._guarded(lambda: found.extend(self.inner.updated(loss)))
        return found

    def read(self) -> list[Finding]:
        """What the last look shows; waits for the device."""
        found: list[Finding] = []
        self._guarded(lambda: found.extend(self.inner.read()))
        return found

    def state_dict(self) -> dict[str, Any]:
        """What an interruption must not lose."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take up what `state_dict` gave, of whichever probe."""
        self.inner.load_state_dict(state)

    def _guarded(self, call: Callable[..., object], *arguments: object) -> None:
        self.guard(call, *arguments)
        if self.guard.failed:
            # Whatever hooks it has put into the network are taken out.
            self.inner.abandon()
