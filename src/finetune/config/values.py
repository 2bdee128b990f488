"""Parses the text of hyperparameters into typed values.

Clients of the platform write the same value in several ways: `str(value)`, JSON, or JSON of a string. This module
accepts all of them.
"""

from __future__ import annotations

import ast
import json
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ValueKind = Literal[
    "integer",
    "number",
    "boolean",
    "string",
    "one of",
    "one of, or numbers by name",
    "list of integers",
    "list of strings",
]
Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | dict[str, float] | None

_NONE = frozenset({"", "none", "null"})
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_WHOLE_FLOAT = re.compile(r"[0-9]+\.0+")
_ADJACENT_STRINGS = re.compile(r"""['"]\s+['"]""")
"""Adjacent strings as in `['a' 'b']`, NumPy's notation for a list, which Python would concatenate."""


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """Format of a hyperparameter's text, derived from its annotation.

    Attributes:
        kind: kind of value.
        choices: for `one of`, with or without numbers.
        optional: whether `None` is a value.
    """

    kind: ValueKind
    choices: tuple[str, ...] = ()
    optional: bool = False


def infer_format(annotation: object) -> ValueFormat:
    """The format for a type such as `int | None` or `Literal["a", "b"]`.

    Raises:
        TypeError: the type is not supported.
    """
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        value_format = infer_format(inner[0])
        if any(typing.get_origin(part) is dict for part in inner):
            return ValueFormat("one of, or numbers by name", value_format.choices)
        return ValueFormat(value_format.kind, value_format.choices, optional=True)
    if typing.get_origin(annotation) is Literal:
        return ValueFormat("one of", choices=typing.get_args(annotation))
    kinds: dict[object, ValueKind] = {
        int: "integer",
        float: "number",
        bool: "boolean",
        str: "string",
        tuple[int, ...]: "list of integers",
        tuple[str, ...]: "list of strings",
    }
    if annotation not in kinds:
        raise TypeError(f"unsupported type {annotation!r}")
    return ValueFormat(kinds[annotation])


def parse_value(text: str, value_format: ValueFormat) -> Value:
    """Parse a value; ranges are checked elsewhere.

    Raises:
        ValueError: the text does not have this format.
    """
    bare = unquote(text)
    if value_format.kind == "one of, or numbers by name" and bare.startswith("{"):
        return _parse_numbers_by_name(bare)
    if value_format.kind in ("one of", "one of, or numbers by name"):
        return _parse_choice(bare, value_format)
    if bare.lower() not in _NONE:
        try:
            return _PARSERS[value_format.kind](bare)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    if value_format.optional or value_format.kind in ("list of integers", "list of strings"):
        return None if value_format.optional else ()
    raise ValueError("empty value")


def unquote(text: str) -> str:
    """The text without surrounding whitespace and without the quotes of a JSON or Python string."""
    bare = text.strip()
    if len(bare) >= 2 and bare[0] == bare[-1] == "'" and "'" not in bare[1:-1]:
        return bare[1:-1].strip()
    if len(bare) >= 2 and bare[0] == bare[-1] == '"':
        try:
            decoded = json.loads(bare)
        except json.JSONDecodeError:
            return bare
        return str(decoded).strip()
    return bare


def normalize_word(text: str) -> str:
    """The text in lower case without quotes, and without the zero fraction of an integer: `1.0` becomes `1`."""
    word = unquote(text).lower()
    return word.partition(".")[0] if _WHOLE_FLOAT.fullmatch(word) else word


def parse_bool(text: str) -> bool:
    """Parse `true`, `True`, `1`, `1.0`, `yes`, `on` or their opposites.

    Raises:
        ValueError: the text is none of them.
    """
    word = normalize_word(text)
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        # A tuner writes integers as 10.0, and users write 1e3.
        number = _parse_number(text)
        if not number.is_integer():
            raise ValueError(f"{text!r} is not an integer") from None
        return int(number)


def _parse_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    return number


def _parse_integers(text: str) -> tuple[int, ...]:
    parts = _parse_items(text)
    if any(isinstance(part, bool) for part in parts):
        raise ValueError(f"{text!r} is not a list of integers")
    return tuple(_parse_integer(str(part)) for part in parts)


def _parse_strings(text: str) -> tuple[str, ...]:
    return tuple(str(part).strip() for part in _parse_items(text))


def _parse_numbers_by_name(text: str) -> dict[str, float]:
    """The members of an object in JSON or in Python's `str` notation.

    Raises:
        ValueError: the text is not such an object, or a value is not a number.
    """
    value = _parse_literal(text)
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{text!r} is not an object of numbers by name")
    return {str(name): _parse_number(str(number)) for name, number in value.items()}


def _parse_literal(text: str) -> object:
    """A value in JSON or in Python's `str` notation.

    Raises:
        ValueError: the text is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{text!r} is not a value in JSON") from error


def _parse_items(text: str) -> list[bool | int | float | str]:
    """The members of a list in JSON, in Python's `str` notation, or separated by commas.

    Raises:
        ValueError: the text is another container, or nested.
    """
    if text[:1] not in ("[", "(", "{", "'", '"'):
        return [part.strip() for part in text.split(",") if part.strip()]
    if _ADJACENT_STRINGS.search(text):
        raise ValueError(f"{text!r} has no commas between its strings")
    whole = text if text[0] in "[({" else f"[{text}]"
    value = _parse_literal(whole)
    if isinstance(value, bool | int | float | str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(part, bool | int | float | str) for part in value):
        raise ValueError(f"{text!r} is not a list of single values")
    return list(value)


def _parse_choice(text: str, value_format: ValueFormat) -> str | None:
    word = normalize_word(text)
    for spelling in (word, word.replace("-", "_"), word.replace("_", "-")):
        if spelling in value_format.choices:
            return spelling
    if "true" in value_format.choices and word in _TRUE | _FALSE:
        return "true" if word in _TRUE else "false"
    if value_format.optional and word in _NONE:
        return None
    raise ValueError(f"{text!r} is none of {', '.join(value_format.choices)}")


_PARSERS: dict[ValueKind, Callable[[str], Value]] = {
    "integer": _parse_integer,
    "number": _parse_number,
    "boolean": parse_bool,
    "string": str,
    "list of integers": _parse_integers,
    "list of strings": _parse_strings,
}
