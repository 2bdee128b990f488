"""Writes the model artifact to `model/`: into a staging folder first, then in place of an earlier artifact."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import finetune
from finetune.config.dialects.dialect import DialectName
from finetune.config.hyperparameters import TaskName
from finetune.errors import PlatformError
from finetune.export.handler import HANDLER_FILE
from finetune.export.inference import FORMAT_VERSION
from finetune.models.backbone import Backbone

ARTIFACT_FILE = "artifact.json"
METRICS_FILE = "metrics.json"
# SageMaker's PyTorch inference images install these at startup; torch, torchvision and Pillow are preinstalled.
REQUIREMENTS_FILE = "code/requirements.txt"
# Inside `model/`, since the folder may be a separate mount and a rename cannot cross mounts.
_STAGING_FOLDER = ".artifact.partial"
_REPLACED_FILE = "replaced.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ArtifactContents:
    """Contents of the artifact other than the model.

    Attributes:
        task: classification task.
        outputs: JSON fields that tell the handler what the model's outputs mean.
        metrics: JSON values for `metrics.json`, without NaN.
        texts_per_record: 1, or 2 for text pairs; the handler rejects any other number.
        thresholds: probability per class above which it is predicted; `None` for the defaults.
        dialect: the tool whose form the answers have; `None` for that of the handler.
    """

    task: TaskName
    outputs: Mapping[str, object]
    metrics: Mapping[str, object]
    texts_per_record: int = 1
    thresholds: tuple[float, ...] | None = None
    dialect: DialectName | None = None


def export(folder: Path, backbone: Backbone, contents: ArtifactContents) -> None:
    """Write the artifact into `folder`, replacing an earlier one; unrelated files are kept.

    While files are moved into place, `artifact.json` is absent, so that no handler loads a mixture of two artifacts.

    Args:
        folder: `model/`; created if missing.
        backbone: model, in the precision in which to save it.
        contents: contents other than the model.

    Raises:
        PlatformError: the folder cannot be written, or its disk is full.
    """
    staging = folder / _STAGING_FOLDER
    try:
        earlier = _earlier_files(folder)
        _stage(staging, backbone, contents)
        _move_into_place(staging, folder, earlier)
    except Exception as error:
        if not _is_storage_error(error):
            raise
        raise PlatformError(_storage_error_message(folder, error)) from error
    logger.info("Exported %s to %s", backbone.name, folder)


def _stage(staging: Path, backbone: Backbone, contents: ArtifactContents) -> None:
    """Write the whole artifact into a new folder, and remove the folder on failure."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _write_files(staging, backbone, contents)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _write_files(staging: Path, backbone: Backbone, contents: ArtifactContents) -> None:
    backbone.save(staging)
    handler = staging / HANDLER_FILE
    handler.parent.mkdir()
    shutil.copyfile(Path(__file__).with_name("inference.py"), handler)
    (staging / REQUIREMENTS_FILE).write_text(_requirements(backbone), encoding="utf-8")
    _write_json(staging / METRICS_FILE, dict(contents.metrics))
    files = [*_files_in(staging), ARTIFACT_FILE]
    _write_json(staging / ARTIFACT_FILE, {**_description(backbone, contents), "files": sorted(files)})


def _requirements(backbone: Backbone) -> str:
    """Return the handler's requirements that are not in those images, pinned to the installed versions."""
    framework = backbone.describe().framework
    names = ["safetensors"] + ([framework] if framework != "torchvision" else [])
    return "".join(f"{name}=={version(name)}\n" for name in names)


def _description(backbone: Backbone, contents: ArtifactContents) -> dict[str, object]:
    description = backbone.describe()
    libraries = ["torch", "safetensors", description.framework]
    if description.framework == "transformers" or contents.task == "text-classification":
        libraries.append("tokenizers")
    thresholds = {"thresholds": list(contents.thresholds)} if contents.thresholds else {}
    dialect = {"dialect": contents.dialect} if contents.dialect else {}
    return (
        thresholds
        | dialect
        | {
            "format_version": FORMAT_VERSION,
            "name": backbone.name,
            "framework": description.framework,
            "architecture": description.architecture,
            "arguments": dict(description.arguments),
            "task": contents.task,
            **contents.outputs,
            "preprocessing": backbone.expects.preprocessing(contents.texts_per_record),
            "versions": {"finetune": finetune.__version__, **{name: version(name) for name in libraries}},
        }
    )


def _move_into_place(staging: Path, folder: Path, earlier: set[str]) -> None:
    new = _files_in(staging)
    if (folder / ARTIFACT_FILE).is_file():
        (folder / ARTIFACT_FILE).replace(staging / _REPLACED_FILE)
    for name in sorted(earlier - new):
        (folder / name).unlink(missing_ok=True)
        _remove_if_empty((folder / name).parent, folder)
    for name in new:
        # safetensors makes files readable only by their owner, but the model server often runs as another user.
        (staging / name).chmod(0o644)
    for name in sorted(new - {ARTIFACT_FILE}):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(folder / name)
    (staging / ARTIFACT_FILE).replace(folder / ARTIFACT_FILE)
    shutil.rmtree(staging)


def _earlier_files(folder: Path) -> set[str]:
    """Return the file names of the artifact in `folder`, including one whose replacement was interrupted."""
    lists = (
        folder / ARTIFACT_FILE,
        folder / _STAGING_FOLDER / ARTIFACT_FILE,
        folder / _STAGING_FOLDER / _REPLACED_FILE,
    )
    return {name for path in lists if path.is_file() for name in _listed_files(path)}


def _listed_files(path: Path) -> list[str]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return []
    names = value.get("files") if isinstance(value, dict) else None
    return (
        [name for name in names if isinstance(name, str) and _is_inside_folder(name)] if isinstance(names, list) else []
    )


def _is_inside_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _remove_if_empty(child: Path, folder: Path) -> None:
    if child != folder and child.is_dir() and not any(child.iterdir()):
        child.rmdir()


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _is_storage_error(error: Exception) -> bool:
    """Return whether the disk failed; the Rust writers of weights and tokenizers do not raise OSError."""
    return (isinstance(error, OSError) and error.errno is not None) or "(os error " in str(error)


def _storage_error_message(folder: Path, error: Exception) -> str:
    cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    try:
        free_space = f"; {shutil.disk_usage(folder).free / 1e6:.0f} MB are free"
    except OSError:
        free_space = ""
    return (
        f"The artifact cannot be written to {folder}: {cause}{free_space}. Request a larger volume, or make the folder"
        " writable."
    )
