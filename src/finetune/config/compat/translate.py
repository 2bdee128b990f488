"""Translates a request into the names of this project, and resolves conflicts between its names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from finetune.config.compat.alias import ANY, Assignment, UnsupportedError
from finetune.config.compat.aliases import ALIASES, OBJECTIVE, PLATFORM_NAMES, SYNONYMS
from finetune.config.compat.dialect_defaults import apply_dialect, choose_dialect
from finetune.config.compat.settings import Setting, Settings
from finetune.config.descriptions import all_hyperparameters
from finetune.config.dialects.dialect import Dialect
from finetune.config.dialects.table import OBJECTIVES
from finetune.config.faults import quoted
from finetune.config.values import ValueFormat, parse_value, unquote
from finetune.errors import did_you_mean


def translate(raw: Mapping[str, str], channels: Collection[str] = ()) -> Settings:
    """Translate the names of other tools, resolve conflicting assignments to one hyperparameter, and apply the dialect.

    Args:
        raw: values by name, as the platform delivers them.
        channels: names of the channels of the job, on which defaults of some dialects depend.
    """
    settings = Settings()
    request = {_canonical(name): text for name, text in raw.items()}
    recognized = choose_dialect(request)
    translated: list[Setting] = []
    for name, text in raw.items():
        translated += _translate_setting(name, text, request, settings)
    by_hyperparameter: dict[str, list[Setting]] = {}
    for setting in sorted(
        translated, key=lambda setting: _canonical(setting.name) != setting.assignment.hyperparameter
    ):
        by_hyperparameter.setdefault(setting.assignment.hyperparameter, []).append(setting)
    for hyperparameter, conflicts in by_hyperparameter.items():
        _resolve(hyperparameter, _without_retrieved_default(conflicts, settings, recognized.dialect), settings)
    apply_dialect(settings, recognized, channels)
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
        settings.objective = OBJECTIVES.get(unquote(text), unquote(text))
        settings.notes.append(f"The objective metric of the tuner is {quoted(text)}.")
    elif not canonical.startswith(PLATFORM_NAMES):
        near = did_you_mean(canonical, [*all_hyperparameters(), *ALIASES])
        settings.faults.append(f"Unknown hyperparameter {quoted(name)}{near}: correct its name or remove it.")
    return []


def _translate_alias(name: str, text: str, request: Mapping[str, str], settings: Settings) -> list[Setting]:
    try:
        translation = ALIASES[_canonical(name)].translate(text, request)
    except UnsupportedError as remedy:
        settings.faults.append(f"{name}={quoted(text, name)} is not supported: {remedy}.")
        return []
    except ValueError as allowed:
        settings.faults.append(f"{name}={quoted(text, name)} is not supported: expected {allowed}.")
        return []
    if translation.ignored_reason is not None:
        settings.notes.append(f"{name}={quoted(text, name)} is ignored: {translation.ignored_reason}.")
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


def _without_retrieved_default(conflicts: list[Setting], settings: Settings, dialect: Dialect | None) -> list[Setting]:
    """In a tuning job, drop a setting with the tool's default beside another one, which is the value of the tuner.

    Clients retrieve all defaults of a tool and send them along, and the tuner may use another name.
    """
    if settings.objective is None or dialect is None or len(conflicts) == 1:
        return conflicts
    name = conflicts[0].assignment.hyperparameter
    values = [default.value for default in dialect.defaults if default.hyperparameter == name]
    value_format = all_hyperparameters()[name].format
    tuned = [
        setting
        for setting in conflicts
        if not any(_equal_values(setting.assignment.value, value, value_format) for value in values)
    ]
    if not tuned:
        return conflicts
    dropped = [setting for setting in conflicts if setting not in tuned]
    settings.notes += [f"{setting.as_written} is ignored: {tuned[0].as_written} is tuned." for setting in dropped]
    return tuned


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
        chosen = settings.resolved.get(assignment.hyperparameter)
        if chosen is not None and chosen.assignment.value == assignment.value and not unchanged:
            remark = f", {assignment.remark}" if assignment.remark else ""
            meanings.setdefault((setting.name, setting.text), []).append(
                f"{assignment.hyperparameter}={unquote(assignment.value)}{remark}"
            )
    return [
        f"{name}={quoted(text, name)} is read as {' and '.join(words)}." for (name, text), words in meanings.items()
    ]
