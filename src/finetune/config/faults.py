"""Formats the faults of a request within the message length shown by the platform."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.config.values import unquote
from finetune.messages import Lines, one_line

# The platform shows the first 1,024 characters of the failure file.
MAX_MESSAGE_CHARACTERS = 1000
_MAX_VALUE_CHARACTERS = 60
_SECRET_NAME = re.compile(r"token|secret|password|api_?key|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(?:hf_\w{8,}|api_org_\w{8,}|(?:AKIA|ASIA)[A-Z0-9]{12,})")
"""Names of hyperparameters with secrets, and the form of access tokens of the Hugging Face hub and of AWS keys."""


def quoted(text: str, name: str = "") -> str:
    """A value in Python instead of JSON quotes, truncated to 60 characters, and hidden if it is a secret.

    Args:
        text: the value.
        name: name of the hyperparameter, which may identify a secret.
    """
    text = unquote(text)
    if _SECRET_NAME.search(name) or _SECRET_VALUE.search(text):
        return "'***'"
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
