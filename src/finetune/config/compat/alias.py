"""Aliases: other tools' names for hyperparameters, and the translation of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.config.values import bare_word

ANY: frozenset[str] = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Claim:
    """The value that a name requests for a hyperparameter.

    Attributes:
        knob: name of the hyperparameter in this project.
        value: as text, read like a value given by the user.
        also: other values that are compatible with the claim if another name requests them; `ANY` for all.
        overrides: whether other claims on the hyperparameter are dropped, with a note.
        remark: difference in meaning, for the log.
    """

    knob: str
    value: str
    also: frozenset[str] = frozenset()
    overrides: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Translation:
    """Translation of a name and its value: claims, or the reason why they are ignored."""

    claims: tuple[Claim, ...] = ()
    ignored_because: str | None = None


Translate = Callable[[str, Mapping[str, str]], Translation]
"""Translates the text of a value, given all names and values of the request; `ValueError` lists the allowed values."""


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


def renamed(name: str, used_by: str, knob: str, remark: str = "") -> Alias:
    """An alias with the same values as the hyperparameter."""
    becomes = f"`{knob}`" + (f", {remark}" if remark else "")
    return Alias(name, used_by, becomes, lambda text, _: Translation((Claim(knob, text, remark=remark),)))


def chosen(name: str, used_by: str, table: Mapping[str, Translation]) -> Alias:
    """An alias with a few values, each with its own translation; `1` is read as `true`, `0` as `false`."""

    def translate(text: str, _: Mapping[str, str]) -> Translation:
        word = bare_word(text)
        word = {"1": "true", "yes": "true", "0": "false", "no": "false"}.get(word, word)
        if word not in table:
            raise ValueError(f"one of {', '.join(table)}")
        return table[word]

    return Alias(name, used_by, "; ".join(f"`{word}`: {_meaning(to)}" for word, to in table.items()), translate)


def ignored(name: str, used_by: str, reason: str) -> Alias:
    """An alias that is ignored, whatever its value."""
    return Alias(name, used_by, reason, lambda _text, _: Translation(ignored_because=reason), ignored=True)


def setting(knob: str, value: str, *also: str) -> Translation:
    """A translation into one value of one hyperparameter."""
    return Translation((Claim(knob, value, also=frozenset(also)),))


def _meaning(translation: Translation) -> str:
    if translation.ignored_because is not None:
        return f"ignored, {translation.ignored_because}"
    return " and ".join(f"`{claim.knob}={claim.value}`" for claim in translation.claims) or "nothing to change"
