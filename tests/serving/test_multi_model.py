"""Multi-model endpoints: models are loaded, listed, described, invoked and unloaded by name."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.servers import RunningServer, ready_server

MULTI_MODEL = {"SAGEMAKER_MULTI_MODEL": "true"}
MODEL_BYTES = 45_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with ready_server(tmp_path_factory.mktemp("multi-model") / "root", MULTI_MODEL) as running:
        yield running


@pytest.fixture(autouse=True)
def unloaded(server: RunningServer) -> Iterator[None]:
    """Unload what a test leaves."""
    yield
    for model in call(server, "GET", "/models").json()["models"]:
        assert call(server, "DELETE", f"/models/{model['modelName']}").status_code == 200


def call(server: RunningServer, method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401 - of requests
    return requests.request(method, f"{server.url}{path}", timeout=120, **options)


def load(server: RunningServer, name: str, folder: Path) -> requests.Response:
    return call(server, "POST", "/models", json={"model_name": name, "url": str(folder)})


def invoke(server: RunningServer, name: str, body: bytes, content_type: str) -> requests.Response:
    return server.post(body, content_type, path=f"/models/{name}/invoke")


def test_server_is_healthy_without_a_model(server: RunningServer) -> None:
    assert server.ping() == 200
    assert call(server, "GET", "/models").json() == {"models": []}
    assert server.post(b"[]", "application/json").status_code == 404


def test_models_are_loaded_listed_described_invoked_and_unloaded(
    server: RunningServer, image_root: Path, text_root: Path, images: list[bytes]
) -> None:
    one, two = ({"modelName": name, "modelUrl": str(root / "model")} for name, root in
                (("photos", image_root), ("reviews", text_root)))  # fmt: skip
    assert load(server, "photos", image_root / "model").status_code == 200
    assert load(server, "reviews", text_root / "model").status_code == 200
    assert call(server, "GET", "/models").json() == {"models": [one, two]}
    assert call(server, "GET", "/models/reviews").json() == two
    assert "predicted_label" in invoke(server, "photos", images[0], "image/png").json()
    assert "predicted_label" in invoke(server, "reviews", b"a good film", "text/plain").json()
    assert invoke(server, "reviews", images[0], "image/png").status_code == 400
    assert call(server, "DELETE", "/models/photos").status_code == 200
    assert call(server, "GET", "/models").json() == {"models": [two]}
    assert invoke(server, "photos", images[0], "image/png").status_code == 404


def test_lists_have_pages(server: RunningServer, text_root: Path) -> None:
    for name in ("a", "b", "c"):
        assert load(server, name, text_root / "model").status_code == 200
    first = call(server, "GET", "/models?limit=2").json()
    second = call(server, "GET", f"/models?limit=2&next_page_token={first['nextPageToken']}").json()
    assert [[model["modelName"] for model in page["models"]] for page in (first, second)] == [["a", "b"], ["c"]]
    assert "nextPageToken" not in second
    assert call(server, "GET", "/models?limit=-2").status_code == 400


def test_unknown_models_are_not_found(server: RunningServer) -> None:
    answers = [
        call(server, "GET", "/models/none"),
        call(server, "DELETE", "/models/none"),
        invoke(server, "none", b"x", "text/plain"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert answers[0].json()["message"] == "model 'none' is not loaded"


def test_loaded_model_is_not_loaded_again(server: RunningServer, text_root: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: load(server, "reviews", text_root / "model").status_code, range(4)))
    assert sorted(answers) == [200, 409, 409, 409]


def test_invalid_load_requests_are_refused(server: RunningServer, tmp_path: Path) -> None:
    for body in (b"", b"[]", b'{"model_name": "x"}', b'{"model_name": "", "url": "/"}', b"[" * 100_000):
        assert call(server, "POST", "/models", data=body).status_code == 400
    missing = load(server, "x", tmp_path / "missing")
    assert (missing.status_code, "is not a folder" in missing.json()["message"]) == (400, True)
    empty = load(server, "x", tmp_path)
    assert (empty.status_code, "code/inference.py is missing" in empty.json()["message"]) == (400, True)
    assert call(server, "GET", "/models").json() == {"models": []}


def test_model_that_does_not_fit_is_refused_with_507(server: RunningServer, image_root: Path, tmp_path: Path) -> None:
    shutil.copytree(image_root / "model", tmp_path / "large")
    with (tmp_path / "large" / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 42)
    answer = load(server, "large", tmp_path / "large")
    assert (answer.status_code, answer.json()["type"]) == (507, "Insufficient Storage")
    assert "does not fit" in answer.json()["message"]
    assert load(server, "small", image_root / "model").status_code == 200


def test_requests_in_progress_are_answered_before_a_model_is_unloaded(
    server: RunningServer, image_root: Path, images: list[bytes]
) -> None:
    assert load(server, "photos", image_root / "model").status_code == 200
    statuses: list[int] = []
    unloaded = threading.Event()

    def client() -> None:
        while not unloaded.is_set():
            statuses.append(invoke(server, "photos", images[0], "image/png").status_code)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    while statuses.count(200) < 8:
        assert set(statuses) <= {200}
    assert call(server, "DELETE", "/models/photos").status_code == 200
    unloaded.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 404}


def test_memory_of_unloaded_models_is_returned(server: RunningServer, image_root: Path, images: list[bytes]) -> None:
    def cycle() -> int:
        assert load(server, "photos", image_root / "model").status_code == 200
        assert invoke(server, "photos", images[0], "image/png").status_code == 200
        assert call(server, "DELETE", "/models/photos").status_code == 200
        return server.resident_bytes()

    first = [cycle() for _ in range(3)][-1]
    assert [cycle() for _ in range(6)][-1] - first < 2 * MODEL_BYTES
