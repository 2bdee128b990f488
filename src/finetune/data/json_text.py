"""Parses JSON from user data within bounded memory; all parse errors are `ValueError`."""

from __future__ import annotations

import json

MAX_VALUES = 4_000_000
"""Maximum number of values in one text; each takes about 100 bytes of memory."""


def parse_json(text: str | bytes) -> object:
    """Parse one JSON value.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        ValueError: it is nested too deeply, has more than `MAX_VALUES` values, or is not UTF-8.
    """
    if len(text) > MAX_VALUES and _count(text) > MAX_VALUES:
        raise ValueError(f"is not JSON that can be parsed: it has more than {MAX_VALUES:,} values")
    try:
        value: object = json.loads(text)
    except RecursionError as error:
        raise ValueError("is not JSON that can be parsed: it is nested too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:  # a number with thousands of digits
        raise ValueError(f"is not JSON that can be parsed: {error}") from error
    return value


def _count(text: str | bytes) -> int:
    """Return at least the number of values minus one: each further value adds one of these characters."""
    if isinstance(text, str):
        return sum(map(text.count, ("{", "[", ",")))
    return sum(map(text.count, (b"{", b"[", b",")))
