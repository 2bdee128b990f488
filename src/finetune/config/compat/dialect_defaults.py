"""Applies the dialect of a request: the defaults of its tool, and values that the tool does not use."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from finetune.config.compat.alias import Assignment
from finetune.config.compat.settings import Setting, Settings
from finetune.config.dialects.dialect import AppliedDialect, Dialect, Situation
from finetune.config.dialects.recognize import Recognized, recognize
from finetune.config.dialects.table import DIALECTS
from finetune.config.optimizers import join_names
from finetune.config.values import normalize_word


def choose_dialect(request: Mapping[str, str]) -> Recognized:
    """Return the dialect that the user chose, or the recognized one.

    Args:
        request: values by name, with underscores.
    """
    word = normalize_word(request.get("dialect", "auto")).replace("-", "_")
    chosen = next((dialect for dialect in DIALECTS.values() if dialect.name == word), None)
    if chosen is not None or word == "none":
        return Recognized(chosen)
    return recognize(request.keys(), normalize_word(request.get("task", "")))


def apply_dialect(settings: Settings, recognized: Recognized, channels: Collection[str]) -> None:
    """Add the defaults of the dialect for hyperparameters that the request does not set.

    Args:
        settings: the translated request; its defaults, notes and dialect are updated.
        recognized: the dialect.
        channels: names of the channels of the job.
    """
    dialect = recognized.dialect
    if recognized.note:
        settings.notes.append(recognized.note)
    if dialect is None:
        return
    for name, reason in dialect.ignored.items():
        _drop(settings, name, reason)
    if settings.values().get("strategy") != "evaluate":
        _add_defaults(settings, dialect, frozenset(channels))
    settings.dialect = AppliedDialect(
        dialect.name,
        dialect.tool,
        recognized.evidence,
        {name: setting.text for name, setting in settings.defaults.items()},
        dialect.evaluates_on_test,
    )


def _add_defaults(settings: Settings, dialect: Dialect, channels: frozenset[str]) -> None:
    for default in dialect.defaults:
        name = default.hyperparameter
        optimizers = dialect.optimizer_options.get(name)
        if optimizers is not None and settings.values().get("optimizer") not in optimizers:
            _drop(settings, name, f"{dialect.tool} uses it with {join_names(list(optimizers))} only")
        situation = Situation(settings.values(), channels)
        if situation.is_set(name) or not default.condition(situation):
            continue
        value = situation.values.get(default.same_as, default.value)
        settings.defaults[name] = Setting(name, value, Assignment(name, value))


def _drop(settings: Settings, name: str, reason: str) -> None:
    setting = settings.resolved.pop(name, None)
    if setting is not None:
        settings.notes.append(f"{setting.as_written} is ignored: {reason}.")
