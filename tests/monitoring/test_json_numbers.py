"""Every document is valid JSON, also with non-finite numbers."""

from __future__ import annotations

import json
import math

from finetune.monitoring.json_numbers import finite


def test_finite_document_is_unchanged() -> None:
    document = {"loss": 0.5, "rows": [1, None, "nan"], "inner": {"flag": True}}
    assert finite(document) == document


def test_non_finite_number_is_null_with_a_reason() -> None:
    document = {"rows": [{"loss": math.nan}, {"loss": 1.0}], "rate": math.inf, "low": {"x": -math.inf}}
    replaced = finite(document)
    assert json.loads(json.dumps(replaced, allow_nan=False)) == {
        "rows": [{"loss": None}, {"loss": 1.0}],
        "rate": None,
        "low": {"x": None},
        "not_finite": {"rows.0.loss": "not a number", "rate": "infinite", "low.x": "minus infinite"},
    }


def test_input_document_is_not_modified() -> None:
    rows = [math.nan]
    finite({"rows": rows})
    assert math.isnan(rows[0])
