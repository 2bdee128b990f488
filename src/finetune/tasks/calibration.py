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
    bins = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    rows: list[dict[str, float | int]] = []
    error = 0.0
    for index in np.unique(bins):
        in_bin = bins == index
        confidence, accuracy = float(confidences[in_bin].mean()), float(hits[in_bin].mean())
        error += abs(confidence - accuracy) * float(in_bin.mean())
        rows.append(
            {
                "from": float(index) / BINS,
                "to": float(index + 1) / BINS,
                "answers": int(in_bin.sum()),
                "confidence": confidence,
                "accuracy": accuracy,
            }
        )
    return {"expected_calibration_error": error, "calibration": rows}
