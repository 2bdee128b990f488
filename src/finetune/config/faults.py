"""Formats the faults of a request within the message length shown by the platform."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.config.values import unquoted
from finetune.messages import Lines, one_line

# The platform shows the first 1,024 characters of the failure file.
SHOWN_CHARACTERS = 1000
_SHOWN_VALUE = 60


def shown(text: str) -> str:
    """A value in Python instead of JSON quotes, truncated to 60 characters."""
    text = unquoted(text)
    return repr(text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 3] + "...")


def message_of(faults: Sequence[str]) -> Lines:
    """One line per fault, as many as fit, followed by the number of omitted ones."""
    lines: list[str] = []
    room = SHOWN_CHARACTERS
    for index, fault in enumerate(map(one_line, faults)):
        left = len(faults) - index
        rest = f"... and {left} more faults."
        needed = len(fault) + 1 + (len(rest) if left > 1 else 0)
        if needed > room and lines:
            lines.append(rest)
            break
        lines.append(fault[:SHOWN_CHARACTERS])
        room -= len(fault) + 1
    return Lines("\n".join(lines))
