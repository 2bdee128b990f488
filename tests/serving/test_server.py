"""The server follows SageMaker's hosting contract; its answers are those of the artifact's handler."""

from __future__ import annotations

import base64
import csv
import http.client
import io
import json
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from finetune.export.handler import load_handler
from tests.support.exported_models import LABELS
from tests.support.servers import RunningServer, free_port, ready_server, started_server

# Other batch sizes and numbers of threads round differently.
TOLERANCE = 2e-5


def answer_of_the_handler(root: Path, body: bytes, content_type: str) -> Any:  # noqa: ANN401 - JSON
    handler = load_handler(root / "model")
    prediction = handler.predict_fn(handler.input_fn(body, content_type), handler.model_fn(str(root / "model")))
    return json.loads(handler.output_fn(prediction, "application/json"))


def assert_same(answer: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert answer["predicted_label"] == expected["predicted_label"]
    assert answer["labels"] == expected["labels"]
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=TOLERANCE)


def test_ping_fails_until_the_model_is_loaded(image_root: Path) -> None:
    with started_server(image_root) as server:
        statuses = set[int]()
        while 200 not in statuses:
            assert server.process.poll() is None, server.log()
            statuses.add(server.ping())
        assert statuses <= {0, 503, 200}
        assert 503 in statuses
        assert server.post(b"[]", "application/json").status_code == 200


def test_responses_do_not_wait_for_acknowledgements(image_server: RunningServer) -> None:
    """The kernel delays acknowledgements by at least 40 ms; the fastest of many responses takes about 1 ms."""
    connection = http.client.HTTPConnection("127.0.0.1", image_server.port, timeout=60)
    durations = []
    for _ in range(50):
        began = time.monotonic()
        connection.request("GET", "/ping")
        connection.getresponse().read()
        durations.append(time.monotonic() - began)
    connection.close()
    assert min(durations[1:]) < 0.02


def test_image_bytes_are_classified(image_server: RunningServer, image_root: Path, images: list[bytes]) -> None:
    for image in images[:3]:
        answer = image_server.post(image, "image/jpeg")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
        assert_same(answer.json(), answer_of_the_handler(image_root, image, "application/x-image"))


def test_images_in_json_are_classified_in_several_batches(
    image_server: RunningServer, image_root: Path, images: list[bytes]
) -> None:
    body = json.dumps([base64.b64encode(image).decode() for image in images * 3]).encode()
    answers = image_server.post(body, "application/json").json()
    expected = answer_of_the_handler(image_root, body, "application/json")
    assert len(answers) == 72
    for answer, prediction in zip(answers, expected, strict=True):
        assert_same(answer, prediction)


def test_texts_are_classified(text_server: RunningServer, text_root: Path) -> None:
    for body, content_type in (
        (b'{"inputs": ["a good film", "a very, very long and bad book"]}', "application/json"),
        (b'"a good film"\n{"inputs": "bad"}\n', "application/jsonlines"),
        (b"a good film\nbad book\n", "text/csv"),
    ):
        answers = text_server.post(body, content_type).json()
        for answer, expected in zip(answers, answer_of_the_handler(text_root, body, content_type), strict=True):
            assert_same(answer, expected)


def test_answers_have_the_accepted_type(image_server: RunningServer, images: list[bytes]) -> None:
    expected = image_server.post(images[0], "image/png").json()
    lines = image_server.post(images[0], "image/png", "application/jsonlines")
    table = image_server.post(images[0], "image/png", "text/csv")
    array = image_server.post(images[0], "image/png", "application/x-npy")
    types = [answer.headers["Content-Type"] for answer in (lines, table, array)]
    assert types == ["application/jsonlines", "text/csv", "application/x-npy"]
    assert json.loads(lines.text) == expected
    ((label, *probabilities),) = csv.reader(io.StringIO(table.content.decode("utf-8")))
    assert (label, [float(value) for value in probabilities]) == (
        expected["predicted_label"],
        expected["probabilities"],
    )
    assert np.load(io.BytesIO(array.content)).shape == (1, len(LABELS))


def test_request_without_accept_gets_the_default_type(image_root: Path, images: list[bytes]) -> None:
    with ready_server(image_root, {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}) as server:
        headers = {"Content-Type": "image/png", "Accept": ""}
        answer = requests.post(f"{server.url}/invocations", data=images[0], headers=headers, timeout=60)
        assert answer.headers["Content-Type"] == "text/csv"


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status", "cause"),
    [
        (b"no image", "image/jpeg", "*/*", 400, "the image cannot be decoded"),
        (b"{", "application/json", "*/*", 400, "the body is not application/json"),
        (b'["bm8gaW1hZ2U="]', "application/json", "*/*", 400, "record 0 (counted from 0): the image cannot be"),
        (b"", "image/jpeg", "*/*", 400, "the body is empty"),
        (b"x", "application/x-npy", "*/*", 415, "content type 'application/x-npy' is not supported"),
        (b"[]", "application/json", "image/png", 406, "accept 'image/png' is not supported"),
        (b"x" * (6 * 2**20 + 1), "image/jpeg", "*/*", 413, "the body has 6291457 bytes, but at most 6291456"),
    ],
)
def test_client_errors_are_json_with_a_cause(
    image_server: RunningServer, body: bytes, content_type: str, accept: str, status: int, cause: str
) -> None:
    answer = image_server.post(body, content_type, accept)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert answer.json()["code"] == status
    assert answer.json()["message"].startswith(cause)
    assert image_server.ping() == 200


def test_large_body_without_declared_length_is_refused(image_server: RunningServer) -> None:
    chunks = (b"x" * 2**20 for _ in range(8))
    headers = {"Content-Type": "image/jpeg"}
    answer = requests.post(f"{image_server.url}/invocations", data=chunks, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["type"]) == (413, "Request Entity Too Large")


def test_compressed_bodies_are_refused(image_server: RunningServer) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = requests.post(f"{image_server.url}/invocations", data=b"x", headers=headers, timeout=60)
    assert (answer.status_code, "'gzip' is not supported" in answer.json()["message"]) == (415, True)


def test_unknown_paths_and_methods_are_json_errors(image_server: RunningServer) -> None:
    missing = requests.get(f"{image_server.url}/models", timeout=60)
    method = requests.get(f"{image_server.url}/invocations", timeout=60)
    assert (missing.status_code, missing.json()["type"]) == (404, "Not Found")
    assert (method.status_code, method.json()["type"]) == (405, "Method Not Allowed")


def test_execution_parameters_suit_the_task(image_server: RunningServer, text_server: RunningServer) -> None:
    images, texts = (
        requests.get(f"{server.url}/execution-parameters", timeout=60).json() for server in (image_server, text_server)
    )
    assert images == {"MaxConcurrentTransforms": 16, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}
    assert texts["BatchStrategy"] == "MULTI_RECORD"


def test_slow_request_is_answered_after_the_stop_signal(image_root: Path, images: list[bytes]) -> None:
    with ready_server(image_root) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(images[0])}"
        client.sendall(head.encode() + b"\r\n\r\n" + images[0][:100])
        time.sleep(0.2)
        server.process.terminate()
        time.sleep(0.2)
        client.sendall(images[0][100:])
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
        assert b'"predicted_label"' in answer
        assert server.process.wait(30) == 0


def test_client_that_sends_nothing_does_not_delay_the_end(image_root: Path) -> None:
    with ready_server(image_root) as server:
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", server.port)) as stalled,
            socket.create_connection(("127.0.0.1", server.port)),
        ):
            stalled.sendall(head)
            time.sleep(0.2)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 20
            assert stalled.recv(65536).startswith(b"HTTP/1.1 408")


def test_stop_signal_before_the_model_is_loaded_ends_the_server(image_root: Path) -> None:
    with started_server(image_root) as server:
        while server.ping() == 0:
            assert server.process.poll() is None
        assert server.stop() == 0


@pytest.mark.parametrize("missing", ["code/inference.py", "artifact.json", "model.safetensors"])
def test_incomplete_artifact_ends_the_server_with_the_cause(image_root: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(image_root / "model", tmp_path / "root" / "model")
    (tmp_path / "root" / "model" / missing).unlink()
    with started_server(tmp_path / "root") as server:
        assert server.process.wait(60) == 1
        assert "The model cannot be loaded" in server.log()
        assert missing in server.log()


def test_port_in_use_ends_the_server_with_the_cause(image_root: Path) -> None:
    with socket.create_server(("0.0.0.0", free_port())) as other:
        port = str(other.getsockname()[1])
        with started_server(image_root, {"SAGEMAKER_BIND_TO_PORT": port}) as server:
            assert server.process.wait(60) == 2
            assert f"Port {port} cannot be opened" in server.log()
