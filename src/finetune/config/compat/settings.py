"""The settings of a request, translated to the names of this project."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune.config.compat.alias import Assignment
from finetune.config.descriptions import all_hyperparameters
from finetune.config.dialects.dialect import AppliedDialect
from finetune.config.faults import quoted
from finetune.config.values import parse_value, unquote


@dataclass(frozen=True, slots=True)
class Setting:
    """An assignment with its origin in the request.

    Attributes:
        name: as the user wrote it.
        text: the value as the user wrote it.
        assignment: the translated assignment.
    """

    name: str
    text: str
    assignment: Assignment

    @property
    def as_written(self) -> str:
        """The setting as the user wrote it, for messages."""
        return f"{self.name}={quoted(self.text, self.name)}"


@dataclass(slots=True)
class Settings:
    """The request translated to the names of this project.

    Attributes:
        resolved: setting by hyperparameter.
        notes: translated or ignored settings.
        faults: unknown names, values without a translation, and names that contradict each other.
        objective: objective metric of a tuner.
        defaults: defaults of the request's dialect by hyperparameter; none of them is also in `resolved`.
        dialect: the dialect of the request.
    """

    resolved: dict[str, Setting] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    objective: str | None = None
    defaults: dict[str, Setting] = field(default_factory=dict)
    dialect: AppliedDialect | None = None

    def values(self) -> dict[str, str]:
        """Values by hyperparameter, including defaults of the dialect; words of choices are normalized."""
        return {name: self._word(name, setting) for name, setting in {**self.defaults, **self.resolved}.items()}

    def _word(self, name: str, setting: Setting) -> str:
        text, value_format = setting.assignment.value, all_hyperparameters()[name].format
        if value_format.kind != "one of":
            return unquote(text)
        try:
            return str(parse_value(text, value_format))
        except ValueError:
            return text
