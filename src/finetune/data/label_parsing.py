"""Normalizes labels to class names, independent of how they are written."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal

from finetune.data.json_text import parse_json

LABEL_SEPARATOR = "|"
"""Separator between the classes of one record in a cell, with `multi_label`."""

MISSING = frozenset(
    {"nan", "-nan", "na", "n/a", "<na>", "#n/a", "#na", "null", "none", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
)
"""Words, in lower case, that pandas reads as a missing value."""

_MAX_NAME_LENGTH = 4096
_MAX_LABELS = 100_000
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.0+")


def label_name(value: object) -> str | None:
    """Return the class name of a label, the same for every file format.

    Whole numbers lose their fraction (`1`, `1.0` and `"1.0"` are the class `1`), booleans become `True` and `False`, as
    written by `str` and pandas, and texts are stripped and normalized to the composed Unicode form (NFC).

    Returns:
        The name, or `None` if the label is missing: null, NaN or blank.

    Raises:
        ValueError: the value cannot be a class name; the message gives the reason.
    """
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return None
    if isinstance(value, float | Decimal) and math.isinf(value):
        raise ValueError("the label is an infinite number")
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | Decimal):
        return str(int(value)) if value % 1 == 0 else str(value)
    if not isinstance(value, str):
        raise ValueError(f"the label must be a text or a number, not {_type_name(value)}")
    if len(value) > _MAX_NAME_LENGTH:
        raise ValueError(
            f"the label has {len(value):,} characters, but a class name has at most {_MAX_NAME_LENGTH:,}; check that"
            " label_column names the right column"
        )
    name = unicodedata.normalize("NFC", value.strip())
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError("the label holds half of a surrogate pair")
    if _WHOLE_NUMBER.fullmatch(name):
        return str(int(name.partition(".")[0]))
    return name or None


class SpellingCheck:
    """Warns if labels with different spellings become one class."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Initialize without labels.

        Args:
            warn: called at most once per class.
        """
        self._warn = warn
        self._first: dict[str, str] = {}
        self._warned: set[str] = set()

    def check(self, label: object, name: str | None) -> None:
        """Check a label that was mapped to the class `name`."""
        if not isinstance(label, str) or name is None:
            return
        first = self._first.setdefault(name, label)
        if first != label and name not in self._warned:
            self._warned.add(name)
            self._warn(
                f"labels {_quoted(first)} and {_quoted(label)} are one class, {name!r}: surrounding whitespace, Unicode"
                " normalization form and the fraction of whole numbers are ignored"
            )


def label_names(
    value: object, *, multi_label: bool, class_names: Collection[str] = (), spellings: SpellingCheck | None = None
) -> tuple[str, ...]:
    """Return the class names of one record.

    With `multi_label`, the value is a list, a text that holds a JSON list, or names separated by `|`; an empty value
    means that the record belongs to no class. A list with one flag per class is refused: with two classes, 0 and 1
    could be flags or class indices. A word that pandas reads as a missing value, such as `nan`, `NA` or `None`, counts
    as missing, unless it is announced as a class name.

    Args:
        value: the label.
        multi_label: whether a record may have several classes.
        class_names: class names announced in the request.
        spellings: collects the spelling of each label.

    Raises:
        ValueError: the label is missing or cannot be a class name; the message gives the reason.
    """
    if multi_label and value is not None:
        parts = _parts(value)
        names = [label_name(part) for part in parts]
        if None in names:
            raise ValueError("one of its labels is empty")
    elif isinstance(value, list | tuple):
        raise ValueError("the label is a list; set multi_label=true if records have several classes")
    else:
        parts, names = [value], [label_name(value)]
        if None in names:
            raise ValueError("the label is missing")
    for part, name in zip(parts, names, strict=True):
        if name is not None and name.lower() in MISSING and name not in class_names:
            raise ValueError(
                f"the label is missing ({name!r}; if this is a class name, list all classes in class_names)"
            )
        if spellings is not None:
            spellings.check(part, name)
    if not multi_label:
        return tuple(name for name in names if name is not None)
    return tuple(sorted({name for name in names if name is not None}))


def _parts(value: object) -> list[object]:
    if isinstance(value, list | tuple):
        return _reject_flags(value)
    if not isinstance(value, str):
        return [value]
    if value.count(LABEL_SEPARATOR) >= _MAX_LABELS:
        raise ValueError(f"it has more than {_MAX_LABELS:,} labels")
    if value.lstrip().startswith("["):
        try:
            parsed = parse_json(value)
        except ValueError as error:
            raise ValueError("the label begins with '[' but is not a JSON list") from error
        if isinstance(parsed, list):
            return _reject_flags(parsed)
    return [part.strip() for part in value.split(LABEL_SEPARATOR)] if value.strip() else []


def _reject_flags(parts: Sequence[object]) -> list[object]:
    """Return the parts of a list, after checking that they are not flags (one per class) mistaken for classes."""
    numbers = [part for part in parts if isinstance(part, int | float) and part in (0, 1)]
    if any(isinstance(part, bool) for part in parts) or len(set(numbers)) < len(numbers) == len(parts):
        raise ValueError(
            "its labels are one flag per class; list the names, or the indices from 0, of its classes instead"
        )
    return list(parts)


def _type_name(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a value of type {type(value).__name__}"


def _quoted(label: str) -> str:
    """Return the quoted label, with invisible characters escaped."""
    return repr(label) if label.strip() == unicodedata.normalize("NFC", label.strip()) else ascii(label)
