"""Calibration error, compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.evaluation.calibration import calibration


def test_bins_by_hand() -> None:
    found = calibration(np.array([0.95, 0.95, 0.55, 1.0]), np.array([True, False, True, True]))
    assert found["calibration"] == [
        {"from": 0.5, "to": 0.6, "answers": 1, "confidence": 0.55, "accuracy": 1.0},
        {"from": 0.9, "to": 1.0, "answers": 3, "confidence": pytest.approx(2.9 / 3), "accuracy": pytest.approx(2 / 3)},
    ]
    assert found["expected_calibration_error"] == pytest.approx(0.45 / 4 + 0.3 * 3 / 4)


def test_answers_that_come_true_as_stated_have_no_error() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(size=200_000)
    error = calibration(stated, rng.uniform(size=200_000) < stated)["expected_calibration_error"]
    assert error == pytest.approx(0, abs=0.01)
