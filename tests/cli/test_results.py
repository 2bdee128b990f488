"""Results as CSV and JSON Lines."""

from __future__ import annotations

import io
import json

from finetune.cli.results import ResultWriter

RECORD = {"probabilities": [0.25, 0.75], "labels": ["cat", "=dog"], "predicted_label": "=dog"}


def written(format_name: str, top_k: int | None, *results: tuple[object, ...]) -> str:
    file = io.StringIO()
    writer = ResultWriter(file, format_name, ("cat", "=dog"), top_k)
    for key, labels, record in results:
        writer.write(key, labels, record)  # type: ignore[arg-type]
    return file.getvalue()


def test_table_has_a_column_per_class_and_escapes_formulas() -> None:
    assert written("csv", None, ("a.jpg", ("cat",), RECORD), ("=b.jpg", None, {**RECORD, "predicted_label": None})) == (
        "input,label,predicted_label,probability:cat,probability:=dog\n"
        "a.jpg,cat,'=dog,0.250000,0.750000\n"
        "'=b.jpg,,,0.250000,0.750000\n"
    )


def test_table_of_top_classes_has_labels_and_probabilities() -> None:
    record = {"probabilities": [0.75], "labels": ["=dog"], "predicted_label": "=dog"}
    assert written("csv", 1, ("a", None, record)).splitlines() == [
        "input,label,predicted_label,label:top_1,probability:top_1",
        "a,,'=dog,'=dog,0.750000",
    ]


def test_json_lines_have_the_fields_of_responses() -> None:
    first, second = written("jsonl", None, ("a\udcff", ("cat",), RECORD), ("b", None, RECORD)).splitlines()
    assert json.loads(first) == {"input": "a\ufffd", "label": "cat", **RECORD}
    assert json.loads(second) == {"input": "b", **RECORD}


def test_several_labels_are_a_list_or_joined() -> None:
    record = {"probabilities": [0.6, 0.7], "labels": ["cat", "=dog"], "predicted_labels": ["cat", "=dog"]}
    assert json.loads(written("jsonl", None, ("a", ("cat",), record)))["label"] == ["cat"]
    assert written("csv", None, ("a", ("cat", "=dog"), record)).splitlines()[1] == (
        "a,cat|=dog,cat|=dog,0.600000,0.700000"
    )
