"""Contents, size and labels of the image."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import finetune
from tests.image.containers import docker

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 5_500_000_000
MAX_CODE_BYTES = 10_000_000

SEARCH = r"""
import os, pathlib, re
for place, folders, files in os.walk('/'):
    folders[:] = [name for name in folders if os.path.join(place, name) not in ('/proc', '/sys', '/dev')]
    for name in files:
        path = os.path.join(place, name)
        if re.search(r'/(gcc|g\+\+|cc|clang|nvcc|ld|as|make)(-\d+)?$|\.a$|^/opt/.*/tests?/test_\w+\.py$', path):
            print(path)
        elif re.search(r'^/root/.+|/\.cache/|^/tmp/|^/var/cache/apt/.+|^/var/lib/apt/lists/.+|\.whl$', path):
            print(path) if not re.search(r'/root/\.(bashrc|profile)$', path) else None
        elif re.search(r'\.(pem|key)$|id_(rsa|dsa|ecdsa|ed25519)', path) and os.path.isfile(path):
            print(path) if b'PRIVATE KEY' in pathlib.Path(path).read_bytes() else None
"""


@pytest.fixture(scope="module")
def inspection(image: str) -> dict[str, Any]:
    inspections: list[dict[str, Any]] = json.loads(docker("image", "inspect", image))
    return inspections[0]


def test_image_size_is_limited(inspection: dict[str, Any], record_property: Callable[[str, object], None]) -> None:
    record_property("image_bytes", inspection["Size"])
    assert inspection["Size"] <= MAX_BYTES


def test_labels_and_environment(inspection: dict[str, Any]) -> None:
    config = inspection["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == finetune.__version__
    assert re.match(r"[0-9a-f]{40}(-changed)?$|unknown$", labels["org.opencontainers.image.revision"])
    assert (config["Cmd"], config["Entrypoint"]) == (["train"], None)
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert labels["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"
    environment = dict(variable.split("=", 1) for variable in config["Env"])
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_image_contains_no_build_tools_caches_or_keys(image: str) -> None:
    assert docker("run", "--rm", "--network", "none", "--read-only", image, "python", "-B", "-c", SEARCH) == ""


def test_code_is_in_small_last_layers(image: str) -> None:
    options = ("--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}")
    lines = [line.partition(" ") for line in docker("history", *options, image).splitlines()]
    layers = [(int(size), made_by) for size, _, made_by in lines]
    code = max(number for number, (_, made_by) in enumerate(layers) if "/opt/finetune" in made_by and "COPY" in made_by)
    assert sum(size for size, _ in layers[: code + 1]) < MAX_CODE_BYTES
    assert max(size for size, _ in layers[code:]) > 1_000_000_000


def test_dockerfile_needs_no_buildkit() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"^#\s*syntax=|--mount|--link|<<", text, re.MULTILINE)
    assert "ARG BASE_IMAGE=debian:bookworm-slim" in text


def test_first_process_does_not_import_torch(image: str) -> None:
    """Python reaches the line that blocks signals within a fraction of a second, and imports nothing large before."""
    command = "import sys, container.train; print(len([name for name in sys.modules if name.split('.')[0] == 'torch']))"
    assert docker("run", "--rm", "--network", "none", image, "python", "-c", command).strip() == "0"


def test_unknown_command_fails(image: str) -> None:
    completed = subprocess.run(["docker", "run", "--rm", image, "evaluate"], capture_output=True, check=False)
    assert completed.returncode == 127
