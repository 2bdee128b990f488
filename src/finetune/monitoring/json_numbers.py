"""Replaces NaN and infinities by `null` for standard JSON, and records the reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

REASONS = "not_finite"
"""Entry with the original value of each `null`, by path such as `history.0.validation:loss`."""


def finite(document: Mapping[str, object]) -> dict[str, object]:
    """Replace NaN and infinities by `None`, with a reason for each under `not_finite`.

    Args:
        document: JSON values, possibly with non-finite numbers.

    Returns:
        Standard JSON values; `not_finite` is only present if a value was replaced.
    """
    reasons: dict[str, str] = {}
    values = {name: _finite(value, name, reasons) for name, value in document.items()}
    return values | {REASONS: reasons} if reasons else values


def _finite(value: object, path: str, reasons: dict[str, str]) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        reasons[path] = "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
        return None
    if isinstance(value, Mapping):
        return {name: _finite(item, f"{path}.{name}", reasons) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_finite(item, f"{path}.{index}", reasons) for index, item in enumerate(value)]
    return value
