"""`docker run IMAGE finetune` runs the commands for people, as any user and under a read-only root."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

import finetune
from tests.image.containers import READ_ONLY, UNPRIVILEGED_USER_ID, change_owner, docker
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import LABELS, ModelSetup, evaluate


def run(image: str, folder: Path, *arguments: str) -> str:
    """Standard output of a command in a new container, which reads `folder` as `/data`."""
    user = f"{UNPRIVILEGED_USER_ID}:{UNPRIVILEGED_USER_ID}"
    options = ("--rm", "--network", "none", "--user", user, *READ_ONLY, "--volume", f"{folder}:/data:ro")
    return docker("run", *options, image, "finetune", *arguments)


def test_finetune_predicts_in_the_image(image: str, tmp_path: Path) -> None:
    setup = ModelSetup("resnet18")
    backbone = setup.build(tmp_path / "scratch")
    setup.export(tmp_path / "data" / "model", backbone)
    content = encode_image(make_image(1))
    (tmp_path / "data" / "images" / LABELS[0]).mkdir(parents=True)
    (tmp_path / "data" / "images" / LABELS[0] / "1.png").write_bytes(content)
    change_owner(tmp_path / "data", UNPRIVILEGED_USER_ID)
    (row,) = csv.DictReader(io.StringIO(run(image, tmp_path / "data", "predict", "/data/model", "/data/images")))
    (expected,) = evaluate(backbone, [content])
    assert (row["input"], row["label"]) == (f"/data/images/{LABELS[0]}/1.png", LABELS[0])
    written = [float(row[f"probability:{name}"]) for name in LABELS]
    assert written == pytest.approx(expected.probabilities, abs=2e-5)


def test_finetune_describes_its_commands_in_the_image(image: str, tmp_path: Path) -> None:
    assert run(image, tmp_path, "--version") == f"finetune {finetune.__version__}\n"
    assert "--min-confidence" in run(image, tmp_path, "predict", "--help")
