"""Every document is valid JSON, also with non-finite numbers."""

from __future__ import annotations

import json
import math

from finetune.monitoring.json_numbers import finite


def test_finite_documents_stay_as_they_are() -> None:
    document = {"loss": 0.5, "rows": [1, None, "nan"], "inner": {"flag": True}}
    assert finite(document) == document


def test_what_is_not_finite_is_null_with_a_reason() -> None:
    document = {"rows": [{"loss": math.nan}, {"loss": 1.0}], "rate": math.inf, "low": {"x": -math.inf}}
    found = finite(document)
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "rows": [{"loss": None}, {"loss": 1.0}],
        "rate": None,
        "low": {"x": None},
        "not_finite": {"rows.0.loss": "not a number", "rate": "infinite", "low.x": "minus infinite"},
    }


def test_the_document_itself_is_not_changed() -> None:
    rows = [math.nan]
    finite({"rows": rows})
    assert math.isnan(rows[0])
