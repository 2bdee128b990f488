"""Formats the faults of a request within the message length shown by the platform."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.config.values import unquote
from finetune.messages import Lines, one_line

# The platform shows the first 1,024 characters of the failure file.
MAX_MESSAGE_CHARACTERS = 1000
_MAX_VALUE_CHARACTERS = 60


def quoted(text: str) -> str:
    """A value in Python instead of JSON quotes, truncated to 60 characters."""
    text = unquote(text)
    return repr(text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 3] + "...")


def join_faults(faults: Sequence[str]) -> Lines:
    """One line per fault, as many as fit, followed by the number of omitted ones."""
    lines: list[str] = []
    budget = MAX_MESSAGE_CHARACTERS
    for index, fault in enumerate(map(one_line, faults)):
        remaining = len(faults) - index
        more = f"... and {remaining} more faults."
        needed = len(fault) + 1 + (len(more) if remaining > 1 else 0)
        if needed > budget and lines:
            lines.append(more)
            break
        lines.append(fault[:MAX_MESSAGE_CHARACTERS])
        budget -= len(fault) + 1
    return Lines("\n".join(lines))
