"""Aliases: other tools' names for hyperparameters, and the translation of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.config.values import normalize_word


class UnsupportedError(ValueError):
    """A value without equivalent; the message is the remedy."""


ANY: frozenset[str] = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Assignment:
    """The value that a name requests for a hyperparameter.

    Attributes:
        hyperparameter: name of the hyperparameter in this project.
        value: as text, read like a value given by the user.
        compatible: other values that are accepted if another name requests them; `ANY` for all.
        overrides: whether other assignments to the hyperparameter are dropped, with a note.
        remark: difference in meaning, for the log.
    """

    hyperparameter: str
    value: str
    compatible: frozenset[str] = frozenset()
    overrides: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Translation:
    """Translation of a name and its value: assignments, or the reason why it is ignored."""

    assignments: tuple[Assignment, ...] = ()
    ignored_reason: str | None = None


Translate = Callable[[str, Mapping[str, str]], Translation]
"""Translates the text of a value, given all names and values of the request.

`ValueError` lists the allowed values, `UnsupportedError` contains a remedy instead.
"""


@dataclass(frozen=True, slots=True)
class Alias:
    """A hyperparameter name of other tools.

    Attributes:
        name: with underscores.
        used_by: the tools that use it.
        becomes: for the documentation: the equivalent here, or why it is ignored.
        translate: translates a value.
        ignored: whether the name is ignored, whatever its value.
    """

    name: str
    used_by: str
    becomes: str
    translate: Translate
    ignored: bool = False


def name_alias(name: str, used_by: str, hyperparameter: str, remark: str = "") -> Alias:
    """An alias with the same values as the hyperparameter."""
    becomes = f"`{hyperparameter}`" + (f", {remark}" if remark else "")
    return Alias(
        name, used_by, becomes, lambda text, _: Translation((Assignment(hyperparameter, text, remark=remark),))
    )


def choice_alias(name: str, used_by: str, table: Mapping[str, Translation]) -> Alias:
    """An alias with a few values, each with its own translation; `1` is read as `true`, `0` as `false`."""

    def translate(text: str, _: Mapping[str, str]) -> Translation:
        word = normalize_word(text)
        word = {"1": "true", "yes": "true", "0": "false", "no": "false"}.get(word, word)
        if word not in table:
            raise ValueError(f"one of {', '.join(table)}")
        return table[word]

    return Alias(
        name, used_by, "; ".join(f"`{word}`: {_meaning(translation)}" for word, translation in table.items()), translate
    )


def ignored_alias(name: str, used_by: str, reason: str) -> Alias:
    """An alias that is ignored, whatever its value."""
    return Alias(name, used_by, reason, lambda _text, _: Translation(ignored_reason=reason), ignored=True)


def refused_alias(name: str, used_by: str, remedy: str) -> Alias:
    """An alias that is refused with a remedy, unless its value is empty."""

    def translate(text: str, _: Mapping[str, str]) -> Translation:
        if normalize_word(text) in {"", "none", "null", "false"}:
            return Translation()
        raise UnsupportedError(remedy)

    return Alias(name, used_by, f"rejected: {remedy}", translate)


def assign(hyperparameter: str, value: str, *compatible: str) -> Translation:
    """A translation into one value of one hyperparameter."""
    return Translation((Assignment(hyperparameter, value, compatible=frozenset(compatible)),))


def _meaning(translation: Translation) -> str:
    if translation.ignored_reason is not None:
        return f"ignored, {translation.ignored_reason}"
    return (
        " and ".join(f"`{assignment.hyperparameter}={assignment.value}`" for assignment in translation.assignments)
        or "no change"
    )
