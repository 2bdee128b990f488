"""`python code/inference.py FILE...` classifies files with the artifact alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.export.inference import input_fn, model_fn, predict_fn
from tests.support.artifact_folders import bert_folder
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import ModelSetup

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the handler; `-I` keeps this project from being imported from the current folder or by variables."""
    block = "import sys; sys.modules['finetune'] = None; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    program = f"import sys; del sys.argv[0]; {block}"
    command = [sys.executable, "-I", "-B", "-c", program, "code/inference.py", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_images_are_classified_and_failures_reported(tmp_path: Path) -> None:
    setup = ModelSetup("resnet18")
    setup.export(tmp_path / "model", setup.build(tmp_path / "scratch"))
    files = [tmp_path / name for name in ("one.png", "two.png", "broken.jpg")]
    for path, content in zip(files, (*(encode_image(make_image(seed)) for seed in (1, 2)), b"nothing"), strict=True):
        path.write_bytes(content)
    done = run(tmp_path / "model", "--top-k", "1", *map(str, files), "missing.png")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["input"] for line in lines] == [str(path) for path in files[:2]]
    model = model_fn(str(tmp_path / "model"))
    for line, path in zip(lines, files, strict=False):
        (record,) = predict_fn(input_fn(path.read_bytes(), "image/png"), model).records
        assert line["labels"] == [record["predicted_label"]] == [line["predicted_label"]]
        assert line["probabilities"] == pytest.approx([max(record["probabilities"])], abs=1e-5)
    failures = done.stderr.splitlines()
    assert failures[0].startswith(f"{files[2]}: the image cannot be decoded")
    assert failures[1].startswith("missing.png: ")


def test_texts_of_every_file_type_are_classified(tmp_path: Path) -> None:
    setup = ModelSetup(None, bert_folder(tmp_path / "source"), task="text-classification")
    setup.export(tmp_path / "model", setup.build(tmp_path / "scratch"))
    contents = {"a.csv": "good film\nbad book\n", "b.jsonl": '"good film"\n', "c.txt": "good\nfilm\n"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    done = run(tmp_path / "model", *(str(tmp_path / name) for name in contents), "--min-confidence", "0.99")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["input"]).name for line in lines] == ["a.csv", "a.csv", "b.jsonl", "c.txt"]
    assert {line["predicted_label"] for line in lines} == {None}
    refused = run(tmp_path / "model", "x.txt", "--top-k", "0")
    assert refused.returncode == 2
    assert "top_k='0' must be a whole number" in refused.stderr
