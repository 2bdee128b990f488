"""Translates a request into the names of this project, and resolves conflicts between its names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune.config.compat.alias import ANY, Assignment
from finetune.config.compat.aliases import ALIASES, OBJECTIVE, PLATFORM_NAMES, SYNONYMS
from finetune.config.descriptions import all_hyperparameters
from finetune.config.faults import quoted
from finetune.config.values import ValueFormat, parse_value, unquote
from finetune.errors import did_you_mean


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
        return f"{self.name}={quoted(self.text)}"


@dataclass(slots=True)
class Settings:
    """The request translated to the names of this project.

    Attributes:
        resolved: setting by hyperparameter.
        notes: translated or ignored settings.
        faults: unknown names, values without a translation, and names that contradict each other.
        objective: objective metric of a tuner.
    """

    resolved: dict[str, Setting] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    objective: str | None = None


def translate(raw: Mapping[str, str]) -> Settings:
    """Translate the names of other tools, and resolve conflicting assignments to one hyperparameter."""
    settings = Settings()
    request = {_canonical(name): text for name, text in raw.items()}
    translated: list[Setting] = []
    for name, text in raw.items():
        translated += _translate_setting(name, text, request, settings)
    by_hyperparameter: dict[str, list[Setting]] = {}
    for setting in sorted(
        translated, key=lambda setting: _canonical(setting.name) != setting.assignment.hyperparameter
    ):
        by_hyperparameter.setdefault(setting.assignment.hyperparameter, []).append(setting)
    for hyperparameter, conflicts in by_hyperparameter.items():
        _resolve(hyperparameter, conflicts, settings)
    settings.notes[:0] = _translation_notes(translated, settings)
    return settings


def _canonical(name: str) -> str:
    return name.strip().replace("-", "_")


def _translate_setting(name: str, text: str, request: Mapping[str, str], settings: Settings) -> list[Setting]:
    canonical = _canonical(name)
    if canonical in all_hyperparameters():
        value = SYNONYMS.get((canonical, unquote(text).lower()), text)
        return [Setting(name, text, Assignment(canonical, value))]
    if canonical in ALIASES:
        return _translate_alias(name, text, request, settings)
    if canonical == OBJECTIVE:
        settings.objective = unquote(text)
        settings.notes.append(f"The objective metric of the tuner is {quoted(text)}.")
    elif not canonical.startswith(PLATFORM_NAMES):
        near = did_you_mean(canonical, [*all_hyperparameters(), *ALIASES])
        settings.faults.append(f"Unknown hyperparameter {quoted(name)}{near}: correct its name or remove it.")
    return []


def _translate_alias(name: str, text: str, request: Mapping[str, str], settings: Settings) -> list[Setting]:
    try:
        translation = ALIASES[_canonical(name)].translate(text, request)
    except ValueError as allowed:
        settings.faults.append(f"{name}={quoted(text)} is not supported: expected {allowed}.")
        return []
    if translation.ignored_reason is not None:
        settings.notes.append(f"{name}={quoted(text)} is ignored: {translation.ignored_reason}.")
    return [Setting(name, text, assignment) for assignment in translation.assignments]


def _resolve(hyperparameter: str, conflicts: list[Setting], settings: Settings) -> None:
    """Choose the first assignment compatible with all others, preferring the hyperparameter's own name over aliases."""
    value_format = all_hyperparameters()[hyperparameter].format
    overriding = [setting for setting in conflicts if setting.assignment.overrides]
    if overriding:
        settings.resolved[hyperparameter] = overriding[0]
        dropped = (setting for setting in conflicts if not setting.assignment.overrides)
        settings.notes += [f"{setting.as_written} is ignored: {overriding[0].as_written}." for setting in dropped]
        return
    for candidate in conflicts:
        if all(_is_compatible(candidate.assignment.value, setting.assignment, value_format) for setting in conflicts):
            settings.resolved[hyperparameter] = candidate
            return
    settings.resolved[hyperparameter] = conflicts[0]
    names = " and ".join(setting.as_written for setting in conflicts)
    settings.faults.append(f"{names} conflict: both set {hyperparameter}; remove one of them.")


def _is_compatible(value: str, assignment: Assignment, value_format: ValueFormat) -> bool:
    return assignment.compatible is ANY or any(
        _equal_values(value, other, value_format) for other in (assignment.value, *assignment.compatible)
    )


def _equal_values(first: str, second: str, value_format: ValueFormat) -> bool:
    try:
        return parse_value(first, value_format) == parse_value(second, value_format)
    except ValueError:
        return first == second


def _translation_notes(translated: list[Setting], settings: Settings) -> list[str]:
    """Describe the translation of each alias whose value was chosen."""
    meanings: dict[tuple[str, str], list[str]] = {}
    for setting in translated:
        assignment = setting.assignment
        unchanged = _canonical(setting.name) == assignment.hyperparameter and setting.text == assignment.value
        if settings.resolved[assignment.hyperparameter].assignment.value == assignment.value and not unchanged:
            remark = f", {assignment.remark}" if assignment.remark else ""
            meanings.setdefault((setting.name, setting.text), []).append(
                f"{assignment.hyperparameter}={unquote(assignment.value)}{remark}"
            )
    return [f"{name}={quoted(text)} is read as {' and '.join(words)}." for (name, text), words in meanings.items()]
