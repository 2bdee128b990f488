"""Models fetched at build time are where a job looks for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from finetune.models.load import load_backbone
from tests.support.model_requests import request_model
from tests.support.tiny_transformers import write_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NAME = "tiny-distilbert"
REVISION = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that downloading one model requires."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]  # from the server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        listed = sorted(self._folder.iterdir())
        if "/tree/" in path:
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40} for file in listed
            ]
            content = json.dumps(files).encode()
        elif path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": file.name} for file in listed]
            content = json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings}).encode()
        elif not (self._folder / Path(path).name).is_file():
            self.send_error(404)
            return
        else:
            content = (self._folder / Path(path).name).read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{Path(path).name}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        del format, args


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    folder = write_folder(tmp_path / "hub", "distilbert")
    (folder / "modeling_own.py").write_text("raise SystemExit('code of a stranger')")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(folder: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | environment
    command = [sys.executable, str(ROOT / "container" / "fetch_pretrained.py"), str(folder), name]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_hub_model_is_downloaded(hub: str, tmp_path: Path) -> None:
    process = fetch(tmp_path / "baked", NAME, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "home"))
    assert process.returncode == 0, process.stderr
    assert not list((tmp_path / "baked").rglob("*.py"))
    backbone = load_backbone(request_model(NAME, tmp_path, task="text-classification", baked=tmp_path / "baked"))
    assert backbone.weights.source.startswith("weights in the image")


def test_torchvision_model_is_downloaded(tmp_path: Path) -> None:
    weights = get_model_weights("mobilenet_v3_small").DEFAULT
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    state = get_model("mobilenet_v3_small", weights=None).state_dict()
    torch.save(state, cache / Path(weights.url).name)
    process = fetch(tmp_path / "baked", "mobilenet_v3_small", TORCH_HOME=str(tmp_path / "torch"))
    assert process.returncode == 0, process.stderr
    backbone = load_backbone(request_model("mobilenet_v3_small", tmp_path, baked=tmp_path / "baked"))
    assert backbone.weights.source.startswith("weights in the image")
    assert torch.equal(backbone.module.state_dict()["features.0.0.weight"], state["features.0.0.weight"])


def test_unavailable_model_fails_the_build(tmp_path: Path) -> None:
    endpoint = "http://127.0.0.1:9"
    process = fetch(tmp_path / "baked", "someone/no-such-network", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "home"))
    assert process.returncode != 0
