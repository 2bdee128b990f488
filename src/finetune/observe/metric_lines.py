"""One line per epoch that a regular expression can read: fixed decimals, never scientific notation."""

from __future__ import annotations

from collections.abc import Mapping

DECIMALS = 6


def metric_line(epoch: int, metrics: Mapping[str, float]) -> str:
    """The line of an epoch, such as `epoch=3; train:loss=0.123456; validation:accuracy=0.912345;`.

    The same metrics give the same line, whatever happened to the job meanwhile: times are told elsewhere.

    Args:
        epoch: counted from 0; printed from 1.
        metrics: by name, in the order in which they are printed.
    """
    return " ".join([f"epoch={epoch + 1};", *(f"{name}={value:.{DECIMALS}f};" for name, value in metrics.items())])
