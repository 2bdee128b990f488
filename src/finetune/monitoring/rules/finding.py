"""Findings of rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

Parameters = Mapping[str, float]
Rules = Mapping[str, Parameters]


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of a rule.

    Attributes:
        rule: Name of the rule.
        step: Optimizer steps done, or `None` if not related to a step.
        location: Tensor, layer, class or epoch.
        observation: Observation with numbers.
        advice: Recommended next step.
        severe: Whether the job will fail to train without a change.
        resolved: Reason why it no longer holds at the end of the job; `None` while it holds.
    """

    rule: str
    step: int | None
    location: str
    observation: str
    advice: str
    severe: bool = False
    resolved: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return plain values, with the keys of `report.json` and checkpoints."""
        return {
            "rule": self.rule,
            "step": self.step,
            "where": self.location,
            "seen": self.observation,
            "advice": self.advice,
            "grave": self.severe,
            "resolved": self.resolved,
        }

    @classmethod
    def from_json(cls, values: object) -> Self:
        """Restore a finding from the result of `as_json`.

        Raises:
            ValueError: The values are not a finding.
        """
        texts = ("rule", "where", "seen", "advice")
        if not isinstance(values, dict) or values.keys() - {"resolved"} != {*texts, "step", "grave"}:
            raise ValueError(f"expected a finding, got {values!r:.80}")
        step, severe, resolved = values["step"], values["grave"], values.get("resolved")
        if any(not isinstance(values[name], str) for name in texts) or not isinstance(severe, bool):
            raise ValueError(f"expected a finding, got {values!r:.80}")
        if step is not None and type(step) is not int:
            raise ValueError(f"expected the step of a finding, got {step!r:.80}")
        if not isinstance(resolved, str | None):
            raise ValueError(f"expected a finding, got {values!r:.80}")
        return cls(values["rule"], step, values["where"], values["seen"], values["advice"], severe, resolved)

    def line(self) -> str:
        """Format the finding for the log."""
        at = f" at step {self.step}" if self.step is not None else ""
        return f"rule {self.rule}{at}: {self.observation} ({self.location}). Next: {self.advice}"
