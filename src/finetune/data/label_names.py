"""What is a class called, however its label is written?"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

LABEL_SEPARATOR = "|"
"""Between the classes of one record where they share a cell, with `multi_label`."""

_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.0+")


def label_name(value: object) -> str | None:
    """Name the class that a label stands for, the same in every file format.

    Whole numbers lose their fraction (`1`, `1.0` and `"1.0"` are the class `1`), truth values become `true` and
    `false`, texts lose surrounding blanks and take the composed Unicode form.

    Returns:
        The name, or None where the label is missing: null, NaN or blank.

    Raises:
        ValueError: the value cannot name a class; the message says why.
    """
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return None
    if isinstance(value, float | Decimal) and math.isinf(value):
        raise ValueError("the label is an infinite number")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(int(value)) if value % 1 == 0 else str(value)
    if not isinstance(value, str):
        raise ValueError(f"the label is neither a text nor a number but {_kind(value)}")
    name = unicodedata.normalize("NFC", value.strip())
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError("the label holds half of a surrogate pair")
    if _WHOLE_NUMBER.fullmatch(name):
        return str(int(name.partition(".")[0]))
    return name or None


def label_names(value: object, *, multi_label: bool) -> tuple[str, ...]:
    """Name the classes of one record.

    With `multi_label` the value is a list, a text that holds a JSON list, or names separated by `|`; an empty one says
    that the record belongs to no class. A list with a flag for each class is refused: of two classes, 0 and 1 could be
    either.

    Raises:
        ValueError: the label is missing or cannot name a class; the message says which.
    """
    if multi_label and value is not None:
        names = [label_name(part) for part in _parts(value)]
        if None in names:
            raise ValueError("one of its labels is empty")
        return tuple(sorted({name for name in names if name is not None}))
    if isinstance(value, list | tuple):
        raise ValueError("the label is a list; set multi_label=true if records have several classes")
    name = label_name(value)
    if name is None:
        raise ValueError("the label is missing")
    return (name,)


def _parts(value: object) -> list[object]:
    if isinstance(value, list | tuple):
        return _no_flags(value)
    if not isinstance(value, str):
        return [value]
    if value.lstrip().startswith("["):
        try:
            parsed: object = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("the label begins with '[' but is no JSON list") from error
        if isinstance(parsed, list):
            return _no_flags(parsed)
    return list(value.split(LABEL_SEPARATOR)) if value.strip() else []


def _no_flags(parts: Sequence[object]) -> list[object]:
    """The parts of a list, if they are not a row of flags, one for each class, taken for the classes themselves."""
    numbers = [part for part in parts if isinstance(part, int | float) and part in (0, 1)]
    if any(isinstance(part, bool) for part in parts) or len(set(numbers)) < len(numbers) == len(parts):
        raise ValueError(
            "its labels are a flag for each class; list the names, or the numbers from 0, of the classes that it has"
        )
    return list(parts)


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a value of type {type(value).__name__}"
