"""Calibration error, compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.tasks.calibration import calibration


def test_calibration_matches_values_computed_by_hand() -> None:
    result = calibration(np.array([0.95, 0.95, 0.55, 1.0]), np.array([True, False, True, True]))
    assert result["calibration"] == [
        {"from": 0.5, "to": 0.6, "answers": 1, "confidence": 0.55, "accuracy": 1.0},
        {"from": 0.9, "to": 1.0, "answers": 3, "confidence": pytest.approx(2.9 / 3), "accuracy": pytest.approx(2 / 3)},
    ]
    assert result["expected_calibration_error"] == pytest.approx(0.45 / 4 + 0.3 * 3 / 4)


def test_calibrated_predictions_have_no_error() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(size=200_000)
    error = calibration(confidences, rng.uniform(size=200_000) < confidences)["expected_calibration_error"]
    assert error == pytest.approx(0, abs=0.01)
