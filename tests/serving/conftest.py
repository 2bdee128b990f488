"""Exported models for the server, in folders that replace `/opt/ml`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.artifact_folders import bert_folder
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import ModelSetup
from tests.support.servers import RunningServer, ready_server


@pytest.fixture(scope="session")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an image model."""
    root = tmp_path_factory.mktemp("image-root")
    setup = ModelSetup("resnet18")
    setup.export(root / "model", setup.build(root / "scratch"))
    return root


@pytest.fixture(scope="session")
def text_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a text model."""
    root = tmp_path_factory.mktemp("text-root")
    setup = ModelSetup(None, bert_folder(root / "source"), task="text-classification")
    setup.export(root / "model", setup.build(root / "scratch"))
    return root


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """Encoded images, all different."""
    return [encode_image(make_image(seed)) for seed in range(24)]


@pytest.fixture(scope="module")
def image_server(image_root: Path) -> Iterator[RunningServer]:
    with ready_server(image_root) as server:
        yield server


@pytest.fixture(scope="module")
def text_server(text_root: Path) -> Iterator[RunningServer]:
    with ready_server(text_root) as server:
        yield server
