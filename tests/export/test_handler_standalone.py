"""The artifact's handler works where none of this project's modules can be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.export import inference
from finetune.export.handler import HANDLER_FILE
from tests.support.artifact_folders import bert_folder
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import LABELS, ModelSetup, evaluate

pytestmark = pytest.mark.slow

# Starts like the toolkit: the handler's folder on the path, the handler by name, the request's body as bytes.
SERVE = """
import importlib.abc, json, sys

class NothingOfOurs(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "finetune":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NothingOfOurs())
model_dir, requests = sys.argv[1:]
sys.path.insert(0, model_dir + "/code")
import inference

model = inference.model_fn(model_dir)
for body, content_type, accept in json.loads(requests):
    body = bytes.fromhex(body)
    print(json.dumps(inference.output_fn(inference.predict_fn(inference.input_fn(body, content_type), model), accept)))
print(json.dumps(" ".join(name for name in sys.modules if name.split(".")[0] in ("finetune", "transformers"))))
"""


def run_handler(folder: Path, requests: Sequence[tuple[bytes, str, str]]) -> list[str]:
    """The answers to some requests, and the names of imported modules of this project and of transformers."""
    listed = json.dumps([(body.hex(), content_type, accept) for body, content_type, accept in requests])
    command = [sys.executable, "-I", "-B", "-c", SERVE, str(folder), listed]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    outputs: list[str] = [json.loads(line) for line in done.stdout.splitlines()]
    return outputs


def matches(record: Mapping[str, Any], probabilities: Sequence[float]) -> bool:
    best = LABELS[max(range(len(LABELS)), key=probabilities.__getitem__)]
    expected = pytest.approx(list(probabilities), abs=1e-5)
    return bool(
        record["labels"] == list(LABELS) and record["probabilities"] == expected and record["predicted_label"] == best
    )


def test_images_are_classified_as_bytes_and_base64(tmp_path: Path) -> None:
    exported_model = ModelSetup("resnet18")
    backbone = exported_model.build(tmp_path / "scratch")
    exported_model.export(tmp_path / "model", backbone)
    contents = [encode_image(make_image(1), "JPEG"), encode_image(make_image(2, "P"))]
    first, second = (sample.probabilities for sample in evaluate(backbone, contents))
    strings = [b64encode(content).decode() for content in contents]
    jpeg, single, several, lines, table, modules = run_handler(
        tmp_path / "model",
        [
            (contents[0], "image/jpeg", "application/json"),
            (json.dumps({"inputs": strings[1]}).encode(), "application/json", "*/*"),
            (json.dumps({"inputs": strings}).encode(), "application/json; charset=utf-8", "application/json"),
            (json.dumps(strings).encode(), "application/json", "application/jsonlines"),
            (contents[1], "application/x-image", "text/csv"),
        ],
    )
    assert matches(json.loads(jpeg), first)
    assert matches(json.loads(single), second)
    assert [matches(*pair) for pair in zip(json.loads(several), (first, second), strict=True)] == [True, True]
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(several)
    label, *values = table.rstrip("\n").split(",")
    assert matches(
        {"labels": list(LABELS), "predicted_label": label, "probabilities": list(map(float, values))}, second
    )
    assert modules == ""


def test_texts_are_classified_in_every_format(tmp_path: Path) -> None:
    exported_model = ModelSetup(None, bert_folder(tmp_path / "source"), task="text-classification")
    backbone = exported_model.build(tmp_path / "scratch")
    exported_model.export(tmp_path / "model", backbone)
    texts = ["a good, long book", "bad film"]
    first, second = (sample.probabilities for sample in evaluate(backbone, [(text,) for text in texts]))
    string, listed, lines, table, plain, modules = run_handler(
        tmp_path / "model",
        [
            (json.dumps({"inputs": texts[0]}).encode(), "application/json", "application/json"),
            (json.dumps({"inputs": [texts[0], {"text": texts[1]}]}).encode(), "application/json", "application/json"),
            (b"".join(json.dumps({"inputs": t}).encode() + b"\n" for t in texts), "application/jsonlines", "*/*"),
            (b'"a good, long book"\r\nbad film\r\n', "text/csv", "application/json"),
            (texts[1].encode(), "text/plain; charset=utf-8", "application/json"),
        ],
    )
    assert matches(json.loads(string), first)
    for output in (listed, lines, table):
        assert [matches(*pair) for pair in zip(json.loads(output), (first, second), strict=True)] == [True, True]
    assert matches(json.loads(plain), second)
    assert "finetune" not in modules


def test_the_handler_is_copied_byte_for_byte(tmp_path: Path) -> None:
    exported_model = ModelSetup("resnet18")
    exported_model.export(tmp_path, exported_model.build(tmp_path / "scratch"))
    assert (tmp_path / HANDLER_FILE).read_bytes() == Path(inference.__file__).read_bytes()
