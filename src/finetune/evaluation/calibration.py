"""Calibration of predicted probabilities: confidence compared with accuracy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 10

Floats = NDArray[np.float64]


def calibration(confidences: Floats, hits: NDArray[np.bool_]) -> dict[str, object]:
    """Compare predicted probabilities with the observed accuracy.

    Args:
        confidences: predicted probabilities, `[answers]`, 0..1.
        hits: whether each prediction is correct.

    Returns:
        JSON values: `expected_calibration_error`, the mean absolute difference of both over ten bins of equal width,
        weighted by the predictions per bin; and `calibration`, a row per non-empty bin.
    """
    places = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    rows: list[dict[str, float | int]] = []
    error = 0.0
    for place in np.unique(places):
        inside = places == place
        stated, came_true = float(confidences[inside].mean()), float(hits[inside].mean())
        error += abs(stated - came_true) * float(inside.mean())
        rows.append(
            {
                "from": float(place) / BINS,
                "to": float(place + 1) / BINS,
                "answers": int(inside.sum()),
                "confidence": stated,
                "accuracy": came_true,
            }
        )
    return {"expected_calibration_error": error, "calibration": rows}
