"""Contents of `model/` after an export, and the handling of earlier contents."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.errors import PlatformError
from finetune.export.verify import tolerance_on, verify
from finetune.models.backbone import Backbone, TextInput
from tests.support.artifact_folders import bert_folder
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import LABELS, ModelSetup, evaluate

PLAIN_FILES = ["artifact.json", "code/inference.py", "code/requirements.txt", "metrics.json", "model.safetensors"]
NOBODY = 65534


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def image_backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return ModelSetup("mobilenet_v3_small").build(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def text_backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    scratch = tmp_path_factory.mktemp("texts")
    return ModelSetup(None, bert_folder(scratch / "source"), task="text-classification").build(scratch)


IMAGE_MODEL = ModelSetup("mobilenet_v3_small")
TEXTS = ModelSetup(None, task="text-classification")


def handler_matches(folder: Path, backbone: Backbone) -> bool:
    tolerance = tolerance_on("cpu")
    return verify(folder, evaluate(backbone, [encode_image(make_image(1))]), tolerance) <= tolerance


def test_artifact_of_a_torchvision_model(image_backbone: Backbone, tmp_path: Path) -> None:
    IMAGE_MODEL.export(tmp_path / "deep" / "model", image_backbone)
    folder = tmp_path / "deep" / "model"
    assert files_of(folder) == PLAIN_FILES
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == IMAGE_MODEL.metrics
    description = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    versions = description.pop("versions")
    assert set(versions) == {"finetune", "torch", "torchvision", "safetensors"}
    assert description.pop("arguments")["num_classes"] == 3
    assert description == {
        "format_version": 1,
        "name": "mobilenet_v3_small",
        "framework": "torchvision",
        "architecture": "mobilenet_v3_small",
        "task": "image-classification",
        "multi_label": False,
        "labels": list(LABELS),
        "preprocessing": {
            "size": 32,
            "resize": 37,
            "interpolation": "bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "sixteen_bit_depth": None,
            "stretch": False,
            "floor_crop": False,
        },
        "files": PLAIN_FILES,
    }


def test_artifact_of_a_text_model(text_backbone: Backbone, tmp_path: Path) -> None:
    TEXTS.export(tmp_path, text_backbone, texts_per_record=2)
    assert {*PLAIN_FILES, "config.json", "tokenizer.json", "tokenizer_config.json"} == set(files_of(tmp_path))
    description = json.loads((tmp_path / "artifact.json").read_text(encoding="utf-8"))
    assert description["files"] == files_of(tmp_path)
    assert description["architecture"] == "BertForSequenceClassification"
    assert description["preprocessing"] == {"max_length": 16, "texts_per_record": 2}
    assert {"transformers", "tokenizers"} <= set(description["versions"])
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["id2label"]["2"] == LABELS[2]


def test_every_user_may_read_the_artifact(text_backbone: Backbone, image_backbone: Backbone, tmp_path: Path) -> None:
    IMAGE_MODEL.export(tmp_path / "image", image_backbone)
    TEXTS.export(tmp_path / "texts", text_backbone)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_export_is_deterministic(image_backbone: Backbone, tmp_path: Path) -> None:
    for name in ("one", "two"):
        IMAGE_MODEL.export(tmp_path / name, image_backbone)
    for name in PLAIN_FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_earlier_artifact_is_replaced_and_other_files_are_kept(
    text_backbone: Backbone, image_backbone: Backbone, tmp_path: Path
) -> None:
    TEXTS.export(tmp_path, text_backbone)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "code" / "notes.txt").write_text("mine", encoding="utf-8")
    IMAGE_MODEL.export(tmp_path, image_backbone)
    assert files_of(tmp_path) == sorted([*PLAIN_FILES, "code/notes.txt", "notes.txt"])
    assert handler_matches(tmp_path, image_backbone)


def test_interrupted_replacement_is_completed(
    text_backbone: Backbone, image_backbone: Backbone, tmp_path: Path
) -> None:
    TEXTS.export(tmp_path, text_backbone)
    staging = tmp_path / ".artifact.partial"
    staging.mkdir()
    (tmp_path / "artifact.json").rename(staging / "replaced.json")
    (tmp_path / "code" / "inference.py").unlink()
    IMAGE_MODEL.export(tmp_path, image_backbone)
    assert files_of(tmp_path) == PLAIN_FILES


@pytest.mark.parametrize("listed", [["../outside", "/etc/hostname", "", ".", 5, None], "outside", None])
def test_an_earlier_list_of_files_is_not_trusted(listed: object, image_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine", encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "artifact.json").write_text(json.dumps({"files": listed}), encoding="utf-8")
    IMAGE_MODEL.export(tmp_path / "model", image_backbone)
    assert (tmp_path / "outside").exists()
    assert files_of(tmp_path / "model") == PLAIN_FILES


def test_a_damaged_earlier_artifact_is_replaced(image_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "artifact.json").write_bytes(b"\xff{")
    IMAGE_MODEL.export(tmp_path, image_backbone)
    assert handler_matches(tmp_path, image_backbone)


def test_mixture_of_two_artifacts_is_never_loaded(image_backbone: Backbone, tmp_path: Path) -> None:
    IMAGE_MODEL.export(tmp_path, image_backbone)
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(PlatformError, match="Is a directory"):
        IMAGE_MODEL.export(tmp_path, image_backbone)
    with pytest.raises(ValueError, match="contains no artifact"):
        handler_matches(tmp_path, image_backbone)


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """Limit files to `limit` bytes; unlike permissions and quotas, this applies to root too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 100, 200_000])
def test_full_disk_is_a_platform_error(limit: int, image_backbone: Backbone, tmp_path: Path) -> None:
    with largest_file(limit), pytest.raises(PlatformError, match=rf"to {tmp_path}: .*File too large.* MB are free"):
        IMAGE_MODEL.export(tmp_path, image_backbone)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 1_000, 10_000, 100_000])
def test_full_disk_keeps_the_earlier_artifact(
    limit: int, text_backbone: Backbone, image_backbone: Backbone, tmp_path: Path
) -> None:
    IMAGE_MODEL.export(tmp_path, image_backbone)
    assert isinstance(text_backbone.expects, TextInput)
    # Now tokenizer.json is the largest file; its writer raises a bare `Exception`.
    text_backbone.expects.tokenizer.add_tokens([f"word{number}" for number in range(1000)])
    with largest_file(limit), pytest.raises(PlatformError, match="File too large"):
        TEXTS.export(tmp_path, text_backbone)
    assert files_of(tmp_path) == PLAIN_FILES
    assert handler_matches(tmp_path, image_backbone)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user of this machine can enter, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Run as a user to whom permissions apply.

    Only this thread changes its user. `os.seteuid` changes it for all threads, and threads of other tests that wait in
    a system call then repeat the call as the other user.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsuid(NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(0)


def test_unwritable_folder_is_a_platform_error(image_backbone: Backbone, public_folder: Path) -> None:
    folder = public_folder / "model"
    folder.mkdir(mode=0o555)
    with without_privileges(), pytest.raises(PlatformError, match=rf"written to {folder}: Permission denied.*writable"):
        IMAGE_MODEL.export(folder, image_backbone)
    assert files_of(folder) == []


def test_file_instead_of_the_folder_is_a_platform_error(image_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("", encoding="utf-8")
    with pytest.raises(PlatformError, match=r"model: Not a directory"):
        IMAGE_MODEL.export(tmp_path / "model", image_backbone)


def test_internal_error_is_not_a_platform_error(image_backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(IMAGE_MODEL, metrics={"auc": float("nan")}).export(tmp_path, image_backbone)
    assert list(tmp_path.iterdir()) == []
