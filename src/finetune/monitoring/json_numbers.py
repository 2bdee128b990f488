"""JSON has no number for what is not finite: which values are `null` instead, and why?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

REASONS = "not_finite"
"""The entry that says, by place such as `history.0.validation:loss`, what stands behind a `null`."""


def finite(document: Mapping[str, object]) -> dict[str, object]:
    """The same values, with `None` in place of NaN and infinities, and a reason for each under `not_finite`.

    Args:
        document: JSON values, numbers that are not finite among them.

    Returns:
        what every reader of JSON accepts; `not_finite` is there only where something was replaced.
    """
    reasons: dict[str, str] = {}
    values = {name: _finite(value, name, reasons) for name, value in document.items()}
    return values | {REASONS: reasons} if reasons else values


def _finite(value: object, place: str, reasons: dict[str, str]) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        reasons[place] = "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
        return None
    if isinstance(value, Mapping):
        return {name: _finite(one, f"{place}.{name}", reasons) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_finite(one, f"{place}.{at}", reasons) for at, one in enumerate(value)]
    return value
