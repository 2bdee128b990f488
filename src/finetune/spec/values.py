"""How is the text of a hyperparameter read as a value?

Clients of the platform write the same value in several ways: `str(value)`, JSON, or JSON of a string. All of them are
read here, and nowhere else.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["whole number", "number", "true or false", "text", "one of", "list of whole numbers", "list of texts"]
Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None

_NOTHING = frozenset({"", "none", "null"})
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Form:
    """What a knob's annotation says about its text.

    Attributes:
        kind: of value.
        choices: for `one of`.
        optional: whether `None` is a value.
    """

    kind: Kind
    choices: tuple[str, ...] = ()
    optional: bool = False


def form_of(annotation: object) -> Form:
    """The form that belongs to a type such as `int | None` or `Literal["a", "b"]`.

    Raises:
        TypeError: no text is read as this type.
    """
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        form = form_of(inner[0])
        return Form(form.kind, form.choices, optional=True)
    if typing.get_origin(annotation) is Literal:
        return Form("one of", choices=typing.get_args(annotation))
    kinds: dict[object, Kind] = {
        int: "whole number",
        float: "number",
        bool: "true or false",
        str: "text",
        tuple[int, ...]: "list of whole numbers",
        tuple[str, ...]: "list of texts",
    }
    if annotation not in kinds:
        raise TypeError(f"no text is read as {annotation!r}")
    return Form(kinds[annotation])


def read_value(text: str, form: Form) -> Value:
    """Read a value; ranges are checked elsewhere.

    Raises:
        ValueError: the text has another form.
    """
    bare = unquoted(text)
    if form.kind == "one of":
        return _choice(bare, form)
    if bare.lower() not in _NOTHING:
        return _READERS[form.kind](bare)
    if form.optional or form.kind in ("list of whole numbers", "list of texts"):
        return None if form.optional else ()
    raise ValueError("nothing is given")


def unquoted(text: str) -> str:
    """The text without space around it, and without the quotes of a JSON string."""
    bare = text.strip()
    if len(bare) >= 2 and bare[0] == bare[-1] == '"':
        try:
            decoded = json.loads(bare)
        except json.JSONDecodeError:
            return bare
        return str(decoded).strip()
    return bare


def read_switch(text: str) -> bool:
    """Read `true`, `True`, `1`, `yes`, `on` or their opposites.

    Raises:
        ValueError: the text is none of them.
    """
    word = unquoted(text).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        # A tuner writes whole numbers as 10.0, and people write 1e3.
        number = _number(text)
        if not number.is_integer():
            raise ValueError(f"{text!r} is no whole number") from None
        return int(number)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no finite number")
    return number


def _list_of_whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(_whole_number(part) for part in text.strip("[]()").split(",") if part.strip())


def _list_of_texts(text: str) -> tuple[str, ...]:
    if text.startswith("["):
        parts = json.loads(text)
        if not all(isinstance(part, str | int) for part in parts):
            raise ValueError(f"{text!r} is no list of texts")
        return tuple(str(part).strip() for part in parts)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _choice(text: str, form: Form) -> str | None:
    word = text.lower()
    for spelling in (word, word.replace("-", "_"), word.replace("_", "-")):
        if spelling in form.choices:
            return spelling
    if "true" in form.choices and word in _TRUE | _FALSE:
        return "true" if word in _TRUE else "false"
    if form.optional and word in _NOTHING:
        return None
    raise ValueError(f"{text!r} is none of {', '.join(form.choices)}")


_READERS: dict[Kind, Callable[[str], Value]] = {
    "whole number": _whole_number,
    "number": _number,
    "true or false": read_switch,
    "text": str,
    "list of whole numbers": _list_of_whole_numbers,
    "list of texts": _list_of_texts,
}
