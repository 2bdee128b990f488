"""Concurrent requests share forward passes, and their answers equal those of requests alone."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import RunningServer, ready_server

# Largest measured difference between a pass over one record and a pass over a batch, on a CPU: 4e-6.
TOLERANCE = 2e-5
CLIENTS = 16
TEXTS = ["a good film", "bad", "a very, very long book, not good, not bad", "short film", "not a very good book"] * 8

BLOCKING_HANDLER = """
import pathlib, time
def model_fn(folder):
    return pathlib.Path(folder)
def input_fn(body, content_type):
    return body
def predict_fn(data, folder):
    (folder / 'started').touch()
    while not (folder / 'released').exists():
        time.sleep(0.01)
    return data
def output_fn(prediction, accept):
    return prediction
"""


def answers_of(server: RunningServer, requests: Sequence[tuple[bytes, str]], clients: int) -> list[dict[str, Any]]:
    def post(request: tuple[bytes, str]) -> dict[str, Any]:
        answer = server.post(*request)
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(post, requests))


def assert_equal(answers: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> None:
    for answer, alone in zip(answers, expected, strict=True):
        assert answer["predicted_label"] == alone["predicted_label"]
        assert answer["probabilities"] == pytest.approx(alone["probabilities"], abs=TOLERANCE)


def records_and_batches(server: RunningServer) -> tuple[int, int]:
    """Stop the server and read its last line."""
    assert server.stop() == 0
    found = re.search(r"Stopped after (\d+) records in (\d+) batches", server.log())
    assert found, server.log()
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("workers", [1, 2])
def test_images_in_shared_passes_are_classified_as_alone(image_root: Path, images: list[bytes], workers: int) -> None:
    requests = [(image, "image/png") for image in images * 3]
    with ready_server(image_root, {"SAGEMAKER_MODEL_SERVER_WORKERS": str(workers)}) as server:
        alone = answers_of(server, requests, clients=1)
        assert_equal(answers_of(server, requests, CLIENTS), alone)
        records, batches = records_and_batches(server)
    assert records == 2 * len(requests)
    assert batches < 0.8 * records


def test_texts_in_shared_passes_are_classified_as_alone(text_root: Path) -> None:
    requests = [(text.encode(), "text/plain") for text in TEXTS]
    # The delay makes sure that texts of different lengths, which need padding, share passes.
    with ready_server(text_root, {"FINETUNE_MAX_DELAY_MS": "50"}) as server:
        alone = answers_of(server, requests, clients=1)
        assert_equal(answers_of(server, requests, CLIENTS), alone)
        records, batches = records_and_batches(server)
    assert records == 2 * len(requests)
    assert batches < 0.8 * records


def test_requests_beyond_the_limit_are_answered_with_503(image_root: Path, images: list[bytes]) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
    with ready_server(image_root, {"FINETUNE_MAX_REQUESTS": "2"}) as server:
        with occupied(server, head), occupied(server, head):
            eventually(lambda: server.post(images[0], "image/png").status_code == 503)
            refused = server.post(images[0], "image/png")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["message"].startswith("all 2 places of the queue are taken")
            assert server.ping() == 200
        eventually(lambda: server.post(images[0], "image/png").status_code == 200)


def test_requests_are_refused_while_one_waits_too_long(tmp_path: Path) -> None:
    (tmp_path / "root" / "model" / "code").mkdir(parents=True)
    (tmp_path / "root" / "model" / "code" / "inference.py").write_text(BLOCKING_HANDLER, encoding="utf-8")
    started, released = tmp_path / "root" / "model" / "started", tmp_path / "root" / "model" / "released"
    with ready_server(tmp_path / "root", {"FINETUNE_MAX_WAIT_S": "1"}) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, b"x", "text/plain")
        while not started.exists():
            assert server.process.poll() is None, server.log()
            time.sleep(0.01)
        time.sleep(1.1)
        refused = server.post(b"x", "text/plain")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.json()["message"] == "requests wait for more than 1 s; try again later"
        released.touch()
        assert waiting.result().status_code == 200
        assert server.post(b"x", "text/plain").status_code == 200


def occupied(server: RunningServer, head: bytes) -> socket.socket:
    """A request whose body never comes."""
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(head)
    return client


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
    raise AssertionError("the condition never held")
