"""What is another name for a knob, and how is its value carried over?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.config.values import bare_word

ANY: frozenset[str] = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Claim:
    """What a name and its value ask of a knob.

    Attributes:
        knob: name of ours.
        value: as text, read like the user's own.
        also: other values that fulfil the claim if somebody else asks for them; `ANY` for all.
        overrides: whether what others ask of the knob is dropped, with a note.
        remark: what is a little different here, for the log.
    """

    knob: str
    value: str
    also: frozenset[str] = frozenset()
    overrides: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Translation:
    """What a name and its value mean here: claims, or the reason why they mean nothing."""

    claims: tuple[Claim, ...] = ()
    ignored_because: str | None = None


Translate = Callable[[str, Mapping[str, str]], Translation]
"""From the text of a value, and the other names of the request with theirs; `ValueError` says what is allowed."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that other tools use.

    Attributes:
        name: with underscores.
        used_by: which tools.
        becomes: for the documentation: what of ours, or why it is ignored.
        translate: carries a value over.
        ignored: whether no value of it has an effect.
    """

    name: str
    used_by: str
    becomes: str
    translate: Translate
    ignored: bool = False


def renamed(name: str, used_by: str, knob: str, remark: str = "") -> Alias:
    """Another name for a knob, with the same values."""
    becomes = f"`{knob}`" + (f", {remark}" if remark else "")
    return Alias(name, used_by, becomes, lambda text, _: Translation((Claim(knob, text, remark=remark),)))


def chosen(name: str, used_by: str, table: Mapping[str, Translation]) -> Alias:
    """A name with a few values, each of which means something here; `true` and `1` are the same, and so on."""

    def translate(text: str, _: Mapping[str, str]) -> Translation:
        word = bare_word(text)
        word = {"1": "true", "yes": "true", "0": "false", "no": "false"}.get(word, word)
        if word not in table:
            raise ValueError(f"one of {', '.join(table)}")
        return table[word]

    return Alias(name, used_by, "; ".join(f"`{word}`: {_meaning(to)}" for word, to in table.items()), translate)


def ignored(name: str, used_by: str, reason: str) -> Alias:
    """A name that has no meaning here, whatever its value."""
    return Alias(name, used_by, reason, lambda _text, _: Translation(ignored_because=reason), ignored=True)


def setting(knob: str, value: str, *also: str) -> Translation:
    """A translation into one value of one knob."""
    return Translation((Claim(knob, value, also=frozenset(also)),))


def _meaning(translation: Translation) -> str:
    if translation.ignored_because is not None:
        return f"ignored, {translation.ignored_because}"
    return " and ".join(f"`{claim.knob}={claim.value}`" for claim in translation.claims) or "nothing to change"
