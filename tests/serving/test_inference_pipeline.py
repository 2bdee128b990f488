"""A chain of two servers as an inference pipeline: the platform posts the response of the first one to the second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.exported_models import LABELS
from tests.support.servers import RunningServer, ready_server

pytestmark = pytest.mark.slow

# Takes texts as lines, and returns them in lower case in the accepted format.
PREPROCESSING = """
import csv, io, json

def model_fn(folder):
    return str.lower

def input_fn(body, content_type):
    assert content_type.startswith("text/plain"), content_type
    return bytes(body).decode().splitlines()

def predict_fn(texts, model):
    return [model(text) for text in texts]

def output_fn(texts, accept):
    if accept == "application/jsonlines":
        return "".join(json.dumps({"inputs": text}) + "\\n" for text in texts), accept
    if accept == "text/csv":
        lines = io.StringIO()
        csv.writer(lines).writerows([text] for text in texts)
        return lines.getvalue(), accept
    return json.dumps({"inputs": texts}), "application/json"
"""
TEXTS = ("A Good, Long FILM", "BAD book")


@pytest.fixture(scope="module", params=["application/json", "application/jsonlines", "text/csv"])
def preprocessing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("preprocessing")
    (root / "model" / "code").mkdir(parents=True)
    (root / "model" / "code" / "inference.py").write_text(PREPROCESSING, encoding="utf-8")
    with ready_server(root, {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": request.param}) as server:
        yield server


def forward(first: RunningServer, second: RunningServer, body: bytes, content_type: str) -> requests.Response:
    """Pass a request through both servers as the platform does: content types pass, `Accept` does not."""
    url, headers = f"{first.url}/invocations", {"Content-Type": content_type, "Accept": ""}
    between = requests.post(url, data=body, headers=headers, timeout=60)
    if between.status_code != 200:
        return between
    return second.post(between.content, between.headers["Content-Type"])


def test_response_of_the_first_is_the_request_of_the_second(
    preprocessing: RunningServer, text_server: RunningServer
) -> None:
    assert preprocessing.port != text_server.port
    answers = forward(preprocessing, text_server, "\n".join(TEXTS).encode(), "text/plain; charset=utf-8").json()
    alone = text_server.post(json.dumps([text.lower() for text in TEXTS]).encode(), "application/json").json()
    for answer, expected in zip(answers, alone, strict=True):
        assert answer["predicted_label"] == expected["predicted_label"]
        assert answer["labels"] == list(LABELS)
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=2e-5)


def test_error_of_the_second_is_the_answer(preprocessing: RunningServer, text_server: RunningServer) -> None:
    response = forward(preprocessing, text_server, b"good film\n \n", "text/plain")
    assert response.status_code == 400
    assert "the text is empty" in response.json()["message"]


def test_probabilities_of_a_model_can_be_the_input_of_another_container(
    text_server: RunningServer, tmp_path: Path
) -> None:
    """The other order: the model first, then a container that reads its CSV."""
    (tmp_path / "model" / "code").mkdir(parents=True)
    handler = (
        "def model_fn(folder): return None\n"
        "def input_fn(body, content_type):\n"
        "    assert content_type == 'text/csv', content_type\n"
        "    return bytes(body).decode()\n"
        "def predict_fn(text, model): return [line.split(',')[0] for line in text.splitlines()]\n"
        "def output_fn(labels, accept): return '|'.join(labels), 'text/plain'\n"
    )
    (tmp_path / "model" / "code" / "inference.py").write_text(handler, encoding="utf-8")
    with ready_server(tmp_path) as second:
        between = text_server.post(b"good film\nbad book\n", "text/csv", "text/csv")
        answer = second.post(between.content, between.headers["Content-Type"])
    assert answer.status_code == 200
    assert set(answer.text.split("|")) <= set(LABELS)
    assert answer.headers["Content-Type"] == "text/plain"
