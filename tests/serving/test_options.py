"""Options of requests, in the query or in the platform's header: number of classes and lowest confidence."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from finetune.serving.model import ClientError, ServedModel
from tests.support.exported_models import LABELS
from tests.support.servers import RunningServer

TEXT = b'{"inputs": "a good film"}'


def test_top_k_returns_the_most_probable_classes(text_server: RunningServer) -> None:
    whole = text_server.post(TEXT, "application/json").json()
    expected = sorted(zip(whole["labels"], whole["probabilities"], strict=True), key=lambda pair: -pair[1])[:2]
    for path, attributes in (("/invocations?top_k=2", None), ("/invocations", "top_k=2; trace=a=b;c000b4f9")):
        answer = text_server.post(TEXT, "application/json", path=path, attributes=attributes).json()
        assert answer["labels"] == [name for name, _ in expected]
        assert answer["probabilities"] == pytest.approx([value for _, value in expected], abs=2e-5)
        assert answer["predicted_label"] == whole["predicted_label"]


def test_query_takes_precedence_over_the_header(text_server: RunningServer) -> None:
    answer = text_server.post(TEXT, "application/json", path="/invocations?top_k=1", attributes="top_k=3").json()
    assert len(answer["labels"]) == 1


def test_csv_pairs_labels_with_probabilities(text_server: RunningServer) -> None:
    response = text_server.post(b"good\nbad\n", "text/csv", "text/csv", "/invocations?top_k=2")
    for row in csv.reader(response.text.splitlines()):
        assert row[0] == row[1]
        assert {row[1], row[3]} < set(LABELS)
        assert float(row[2]) >= float(row[4])


def test_labels_below_the_confidence_are_not_predicted(text_server: RunningServer) -> None:
    whole = text_server.post(TEXT, "application/json").json()
    highest = max(whole["probabilities"])
    for limit, predicted in ((highest - 0.001, whole["predicted_label"]), (highest + 0.001, None)):
        answer = text_server.post(TEXT, "application/json", attributes=f"min_confidence={limit}").json()
        assert answer["predicted_label"] == predicted
        assert answer["labels"] == whole["labels"]
    abstained = text_server.post(TEXT, "application/json", "text/csv", "/invocations?min_confidence=0.99").text
    assert abstained.startswith(",0.")


@pytest.mark.parametrize(
    ("query", "cause"),
    [
        ("top_k=0", "top_k='0' must be a whole number from 1 on"),
        ("top_k=2.5", "top_k='2.5' must be a whole number from 1 on"),
        ("top_k=" + "9" * 5000, "must be a whole number from 1 on"),
        ("min_confidence=nan", "min_confidence='nan' must be a number from 0 to 1"),
        ("min_confidence=60", "min_confidence='60' must be a number from 0 to 1"),
        ("topk=3", "unknown options 'topk'; use top_k, min_confidence or format"),
    ],
)
def test_invalid_options_are_client_errors(text_server: RunningServer, query: str, cause: str) -> None:
    response = text_server.post(TEXT, "application/json", path=f"/invocations?{query}")
    assert response.status_code == 400
    assert cause in response.json()["message"]


def test_arrays_of_probabilities_have_no_options(text_server: RunningServer) -> None:
    response = text_server.post(TEXT, "application/json", "application/x-npy", "/invocations?top_k=1")
    assert response.status_code == 400
    assert "omit top_k and min_confidence" in response.json()["message"]


def test_handler_without_options_refuses_them(text_root: Path, tmp_path: Path) -> None:
    shutil.copytree(text_root / "model", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "code" / "inference.py"
    path.write_text(path.read_text("utf-8").replace("def parse_options", "def other_function"), encoding="utf-8")
    model = ServedModel.load(tmp_path)
    request = model.parse(TEXT, "application/json")
    results = model.classify(model.prepare(request, 0, 1))
    assert json.loads(model.respond(request, results, "application/json").body)["predicted_label"] in LABELS
    with pytest.raises(ClientError, match="the handler of this model does not support top_k"):
        model.parse(TEXT, "application/json", {"top_k": "1"})


def test_the_form_of_another_tool_is_selected_by_the_header(text_server: RunningServer) -> None:
    body = json.dumps({"inputs": ["a good film", "a bad film"], "parameters": {"top_k": 2}}).encode()
    answer = text_server.post(body, "application/json", attributes="format=huggingface").json()
    assert [len(pairs) for pairs in answer] == [2, 2]
    assert set(answer[0][0]) == {"label", "score"}
    answer = text_server.post(body, "application/json", path="/invocations?top_k=1&format=blazingtext").json()
    assert [len(pairs["prob"]) for pairs in answer] == [1, 1]
