"""Models for the commands, and a runner that calls them in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from finetune.cli.app import app
from tests.serving.conftest import image_root as image_root
from tests.serving.conftest import images as images
from tests.serving.conftest import text_root as text_root
from tests.support.artifact_images import encode_image, make_image

Finetune = Callable[..., Result]


@pytest.fixture
def finetune_command() -> Finetune:
    """Runs `finetune ARGUMENTS...` and returns its exit code and output."""

    def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Three images in each of the folders `cat` and `dog`."""
    for index, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            content = encode_image(make_image(10 * index + number))
            (tmp_path / "images" / name / f"{number}.png").write_bytes(content)
    return tmp_path / "images"
