"""Read-only hooks into the training step, whose failures do not fail training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from finetune.monitoring.rules.finding import Finding
from finetune.monitoring.rules.tensors import TensorWatch
from finetune.runtime.optional import Guard


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


@dataclass(slots=True)
class GuardedProbe:
    """Probe that is disabled after its first failure, such as running out of memory for a copy of the weights."""

    inner: TensorWatch
    guard: Guard = field(default_factory=lambda: Guard("The tensor rules"))

    @property
    def is_sampling(self) -> bool:
        """Whether this step is sampled."""
        return self.inner.is_sampling

    @property
    def refuted(self) -> frozenset[str]:
        """Rules with earlier findings that the most recent sample no longer confirms."""
        return self.inner.refuted

    def begin(self, step: int) -> None:
        """Start a step."""
        self._guarded(self.inner.begin, step)

    def after_backward(self) -> None:
        """Inspect the unscaled gradients before the optimizer step."""
        self._guarded(self.inner.after_backward)

    def after_step(self, loss: Tensor) -> list[Finding]:
        """Inspect the weights after the optimizer step; returns the findings of an earlier sample."""
        findings: list[Finding] = []
        self._guarded(lambda: findings.extend(self.inner.after_step(loss)))
        return findings

    def read(self) -> list[Finding]:
        """Return the findings of the most recent sample; synchronizes with the device."""
        findings: list[Finding] = []
        self._guarded(lambda: findings.extend(self.inner.read()))
        return findings

    def state_dict(self) -> dict[str, Any]:
        """Return the state to checkpoint."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore the state of any kind of probe."""
        self.inner.load_state_dict(state)

    def _guarded(self, call: Callable[..., object], *arguments: object) -> None:
        self.guard(call, *arguments)
        if self.guard.failed:
            # Remove the hooks that the probe registered on the model.
            self.inner.abandon()
