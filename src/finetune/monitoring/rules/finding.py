"""Findings of rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

Parameters = Mapping[str, float]
Rules = Mapping[str, Parameters]


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of a rule.

    Attributes:
        rule: Name of the rule.
        step: Optimizer steps done, or `None` if not related to a step.
        where: Tensor, layer, class or epoch.
        seen: Observation with numbers.
        advice: Recommended next step.
        grave: Whether the job will fail to train without a change.
        resolved: Reason why it no longer holds at the end of the job; `None` while it holds.
    """

    rule: str
    step: int | None
    where: str
    seen: str
    advice: str
    grave: bool = False
    resolved: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: object) -> Self:
        """Restore a finding from the result of `as_json`.

        Raises:
            ValueError: The values are not a finding.
        """
        texts = ("rule", "where", "seen", "advice")
        if not isinstance(values, dict) or values.keys() - {"resolved"} != {*texts, "step", "grave"}:
            raise ValueError(f"a finding is {values!r:.80}")
        step, grave = values["step"], values["grave"]
        if any(not isinstance(values[name], str) for name in texts) or not isinstance(grave, bool):
            raise ValueError(f"a finding is {values!r:.80}")
        if step is not None and type(step) is not int:
            raise ValueError(f"a finding is of step {step!r:.80}")
        if not isinstance(values.get("resolved"), str | None):
            raise ValueError(f"a finding is {values!r:.80}")
        return cls(**values)

    def line(self) -> str:
        """Format the finding for the log."""
        at = f" at step {self.step}" if self.step is not None else ""
        return f"rule {self.rule}{at}: {self.seen} ({self.where}). Next: {self.advice}"
