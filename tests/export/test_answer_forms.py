"""Requests and answers in the forms of other tools, read by the lines of their notebooks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune.config.dialects.table import DIALECTS
from finetune.export.inference import FORMS, Options, Predictions, input_fn, output_fn

LABELS = ["ash", "birch", "cedar", "elm", "fir", "oak"]
RECORDS = [
    {"probabilities": [0.1, 0.5, 0.2, 0.1, 0.06, 0.04], "labels": LABELS, "predicted_label": "birch"},
    {"probabilities": [0.7, 0.1, 0.1, 0.05, 0.03, 0.02], "labels": LABELS, "predicted_label": "ash"},
]


def predictions(dialect: str, *, single: bool = True, task: str = "text-classification") -> Predictions:
    records = RECORDS[:1] if single else RECORDS
    return Predictions(records, single, artifact={"dialect": dialect, "task": task})


def answer(prediction: Predictions, accept: str = "application/json") -> Any:  # noqa: ANN401 - a JSON value
    return json.loads(output_fn(prediction, accept))


def test_the_handler_knows_all_dialects() -> None:
    assert set(FORMS) == {"plain", *DIALECTS}


def test_mxnet_answers_a_list_of_probabilities() -> None:
    result = answer(predictions("mxnet_image_classification"))
    assert LABELS[result.index(max(result))] == "birch"
    line = output_fn(predictions("mxnet_image_classification"), "application/jsonlines")
    assert json.loads(line)["prediction"] == RECORDS[0]["probabilities"]


@pytest.mark.parametrize("dialect", ["tensorflow_image_classification", "tensorflow_text_classification", "jumpstart"])
def test_tensorflow_answers_probabilities_and_labels_if_verbose(dialect: str) -> None:
    assert answer(predictions(dialect)) == {"probabilities": RECORDS[0]["probabilities"]}
    verbose = answer(predictions(dialect), "application/json;verbose")
    assert verbose["labels"][verbose["probabilities"].index(max(verbose["probabilities"]))] == "birch"
    assert verbose["predicted_label"] == "birch"
    lines = str(output_fn(predictions(dialect, single=False), "text/csv;verbose")).splitlines()
    assert [json.loads(line)["predicted_label"] for line in lines] == ["birch", "ash"]


def test_blazingtext_answers_labels_with_their_prefix() -> None:
    request = input_fn('{"instances": ["a b", "c"], "configuration": {"k": 2}}', "application/json")
    prediction = replace(predictions("blazingtext", single=request.single), options=request.options)
    assert request.contents == ["a b", "c"]
    assert answer(prediction)[0] == {"label": ["__label__birch", "__label__cedar"], "prob": [0.5, 0.2]}
    assert answer(predictions("blazingtext", single=False))[1] == {"label": ["__label__ash"], "prob": [0.7]}


def test_blazingtext_has_a_number_of_labels_for_each_line() -> None:
    request = input_fn('{"source": "a b", "k": 2}\n{"source": "c"}\n', "application/jsonlines")
    prediction = replace(predictions("blazingtext", single=False), options=request.options)
    lines = [json.loads(line) for line in str(output_fn(prediction, "application/jsonlines")).splitlines()]
    assert lines == [
        {"label": ["__label__birch", "__label__cedar"], "prob": [0.5, 0.2]},
        {"label": ["__label__ash"], "prob": [0.7]},
    ]


def test_hugging_face_answers_labels_with_scores() -> None:
    assert answer(predictions("huggingface")) == [{"label": "birch", "score": 0.5}]
    assert answer(predictions("huggingface", single=False)) == [
        {"label": "birch", "score": 0.5},
        {"label": "ash", "score": 0.7},
    ]
    request = input_fn('{"inputs": "a", "parameters": {"top_k": 2, "truncation": true}}', "application/json")
    best = answer(replace(predictions("huggingface"), options=request.options))
    assert [pair["label"] for pair in best] == ["birch", "cedar"]
    assert len(answer(predictions("huggingface", task="image-classification"))) == 5


@pytest.mark.parametrize(
    ("options", "accept"),
    [
        (Options(format="plain"), "application/json"),
        (Options(), "application/json;verbose"),
        (Options(min_confidence=0.1), "application/json"),
        (Options(top_k=6), "application/json"),
    ],
)
def test_the_form_of_this_project_can_be_selected(options: Options, accept: str) -> None:
    result = answer(replace(predictions("mxnet_image_classification"), options=options), accept)
    assert result["predicted_label"] == "birch"


def test_another_form_can_be_selected() -> None:
    prediction = Predictions(RECORDS[:1], single=True, options=Options(format="huggingface"))
    assert answer(prediction) == [{"label": "birch", "score": 0.5}]


@pytest.mark.parametrize("content_type", ["application/octet-stream", "application/jpeg", "application/png", "image/*"])
def test_images_have_the_content_types_of_other_tools(content_type: str) -> None:
    assert input_fn(b"\xff\xd8", content_type).contents == [b"\xff\xd8"]


def test_a_text_has_the_content_type_of_jumpstart() -> None:
    assert input_fn("a text", "application/x-text").contents == [("a text",)]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ('{"inputs": "a", "parameters": ["top_k"]}', "must be a JSON object"),
        ('{"instances": ["a"], "configuration": {"k": 0}}', "top_k='0' must be"),
        ('{"source": "a", "x": 1}', "unknown fields besides 'source': 'x'"),
    ],
)
def test_unknown_options_of_bodies_are_refused(body: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        input_fn(body, "application/json")
