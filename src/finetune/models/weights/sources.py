"""Identifies the weights in a folder: an artifact of this package, a transformers folder, or a state dict."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from finetune.config.hyperparameters import ProblemType
from finetune.errors import UserError
from finetune.models.weights.file_types import WEIGHTS, describe_wrong_content, file_type
from finetune.models.weights.unsupported_formats import refuse_adapter, refuse_incomplete_folder

SourceKind = Literal["torchvision artifact", "transformers folder", "timm folder", "state dict", "hub"]
STATE_DICT_SUFFIXES = (".safetensors", ".pth", ".pt")
ARTIFACT_FILE = "artifact.json"
CONFIG_FILE = "config.json"
# Larger than an index of 1,000 shards or a configuration with 100,000 class names.
MAX_JSON_BYTES = 32 * 2**20
_MAX_DEPTH = 3
# A folder with more subfolders contains data, not a model.
_MAX_FOLDERS = 50
# Files that transformers' Trainer writes to resume training.
_TRAINING_STATE = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state(_\d+)?)\.(pt|pth|bin)")
# Script folder in an archive for SageMaker's inference containers.
_CODE_FOLDER = "code"


@dataclass(frozen=True, slots=True)
class Source:
    """Origin of a model.

    Attributes:
        kind: format of the source.
        location: description for messages, such as `model channel`.
        path: folder, or file of a state dict; None for the hub.
        name: name of the model, if the source states it.
        artifact: content of `artifact.json`; empty if there is none.
    """

    kind: SourceKind
    location: str
    path: Path | None = None
    name: str | None = None
    artifact: Mapping[str, object] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Description for messages, such as `model channel (artifact of an earlier job)`."""
        if self.path is None:
            return self.location
        return f"{self.location} ({'artifact of an earlier job' if self.artifact else self._content()})"

    def _content(self) -> str:
        return f"state dict {self.path.name}" if self.kind == "state dict" and self.path else self.kind

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the outputs, if the artifact states them."""
        labels = self.artifact.get("labels")
        return tuple(str(label) for label in labels) if isinstance(labels, list) and labels else None

    @property
    def problem_type(self) -> ProblemType | None:
        """Meaning of the outputs, if the artifact states it."""
        multi_label = self.artifact.get("multi_label")
        if not isinstance(multi_label, bool):
            return None
        return "multi_label_classification" if multi_label else "single_label_classification"


def identify_source(folder: Path, location: str, depth: int = 0) -> Source | None:
    """Identify the model in `folder`, or else in one of its subfolders except `code/`; None if there is none.

    Raises:
        UserError: an artifact or configuration is damaged, or the folder contains part of a model or several models.
    """
    if (folder / ARTIFACT_FILE).is_file():
        return _read_artifact(folder, location)
    if (folder / CONFIG_FILE).is_file() and (depth == 0 or _is_model_config(folder / CONFIG_FILE, location)):
        kind: SourceKind = "timm folder" if _is_timm_config(folder / CONFIG_FILE, location) else "transformers folder"
        return Source(kind, location, folder)
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    states = [path for path in entries if path.is_file() and _is_state_dict(path)]
    refuse_adapter(folder, location)
    refuse_incomplete_folder(folder, states, location)
    if len(states) > 1:
        names = ", ".join(path.name for path in states[:5])
        raise UserError(f"The {location} contains several weight files ({names}): keep only the file to start from.")
    if states:
        return Source("state dict", location, states[0])
    return _identify_in_subfolders(entries, location, depth) if depth < _MAX_DEPTH else None


def _is_model_config(config: Path, location: str) -> bool:
    """Return whether a config.json describes a model; sentence-transformers also writes one for its pooling."""
    return not {"model_type", "architecture"}.isdisjoint(read_json(config, location))


def _is_timm_config(config: Path, location: str) -> bool:
    """Return whether a config.json is timm's own."""
    content = read_json(config, location)
    is_timm = isinstance(content.get("architecture"), str) and not {"pretrained_cfg", "num_features"}.isdisjoint(
        content
    )
    return is_timm and "model_type" not in content


def _is_state_dict(path: Path) -> bool:
    """Return whether a file contains weights, by its name or its content."""
    if _TRAINING_STATE.fullmatch(path.name):
        return False
    return path.suffix in STATE_DICT_SUFFIXES or file_type(path) in WEIGHTS


def _identify_in_subfolders(entries: list[Path], location: str, depth: int) -> Source | None:
    folders = [path for path in entries if path.is_dir() and path.name != _CODE_FOLDER]
    if len(folders) > _MAX_FOLDERS:
        return None
    sources = {
        path.name: source for path in folders if (source := identify_source(path, location, depth + 1)) is not None
    }
    if len(sources) > 1:
        names = ", ".join(list(sources)[:5])
        raise UserError(
            f"The {location} contains several models, in the folders {names}: keep only the one to start from."
        )
    return next(iter(sources.values()), None)


def _read_artifact(folder: Path, location: str) -> Source:
    artifact = read_json(folder / ARTIFACT_FILE, location)
    match artifact:
        case {"framework": "transformers"}:
            return Source("transformers folder", location, folder, _string_or_none(artifact.get("name")), artifact)
        case {"framework": "timm", "architecture": str(name)}:
            return Source("timm folder", location, folder, f"timm/{name}", artifact)
        case {"framework": "torchvision", "architecture": str(name)}:
            return Source("torchvision artifact", location, folder / "model.safetensors", name, artifact)
    raise UserError(
        f"{ARTIFACT_FILE} in the {location} has an unknown framework or architecture: it was not written by"
        " this container. Provide the model.tar.gz of an earlier job unchanged."
    )


def read_json(path: Path, location: str) -> dict[str, object]:
    """Read the object in a JSON file of at most `MAX_JSON_BYTES`.

    Raises:
        UserError: the file is unreadable, too large, nested too deeply, or not a JSON object.
    """
    value = read_json_value(path, location)
    if not isinstance(value, dict):
        raise UserError(f"{path.name} in the {location} is not a JSON object.")
    return value


def read_json_value(path: Path, location: str) -> object:
    """Read any value in a JSON file of at most `MAX_JSON_BYTES`.

    Raises:
        UserError: the file is unreadable, too large, or nested too deeply.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise UserError(
                f"{path.name} in the {location} has {size} bytes, more than the {MAX_JSON_BYTES} allowed: provide the"
                " file as save_pretrained() or an earlier job wrote it."
            )
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if file_type(path) == "Git LFS pointer":
            raise UserError(str(describe_wrong_content(path))) from error
        raise UserError(f"{path.name} in the {location} cannot be read: {error}.") from error
    except RecursionError as error:
        raise UserError(f"{path.name} in the {location} cannot be read: it is nested too deeply.") from error
    return value


def _string_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
