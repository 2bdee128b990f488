"""`docker run IMAGE serve` answers requests for any user, under a read-only root and without a network."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sagemaker_simulator import TrainingRequest, lay_out
from tests.image.containers import ML, UNPRIVILEGED_USER_ID, Container, ContainerRunner, RunOptions, docker
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import LABELS, ModelSetup, evaluate

PORT = 9090
# No temporary folder can be written, and there is almost no shared memory.
SERVE = RunOptions(
    UNPRIVILEGED_USER_ID, ("--read-only", "--shm-size", "1m"), (f"SAGEMAKER_BIND_TO_PORT={PORT}",), ("serve",)
)
CLIENT = f"""
import base64, sys, urllib.request
headers = {{"Content-Type": "application/x-image"}}
body = base64.b64decode(sys.argv[1])
url = "http://127.0.0.1:{PORT}/invocations"
print(urllib.request.urlopen(urllib.request.Request(url, body, headers)).read().decode())
"""


def invoke(container: Container, image: bytes) -> dict[str, Any]:
    """The answer to a request from within the container, which has no other network."""
    encoded = base64.b64encode(image).decode()
    answer: dict[str, Any] = json.loads(docker("exec", container.name, "python", "-I", "-c", CLIENT, encoded))
    return answer


def test_image_serves_an_artifact(runner: ContainerRunner, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest(channels=(), hyperparameters={}), Path(ML))
    setup = ModelSetup("resnet18")
    backbone = setup.build(tmp_path / "scratch")
    setup.export(folder.model, backbone)
    container = runner.start_in(folder, SERVE)
    container.wait_for(r"Serving /opt/ml/model on port 9090, ready after")
    image = encode_image(make_image(1))
    answer = invoke(container, image)
    (expected,) = evaluate(backbone, [image])
    assert answer["labels"] == list(LABELS)
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=2e-5)
    container.stop(grace=30)
    assert container.wait() == 0
    assert container.seconds_to_stop < 20
    assert "Stopped after 1 records in 1 batches" in container.log()


def test_missing_artifact_ends_the_container_with_the_cause(runner: ContainerRunner, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest(channels=(), hyperparameters={}), Path(ML))
    container = runner.start_in(folder, SERVE)
    assert container.wait() == 1
    assert "The model cannot be loaded: /opt/ml/model/code/inference.py is missing" in container.log()
