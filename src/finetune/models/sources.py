"""What kinds of weights a folder may hold: an artifact of ours, a transformers folder, or a state dict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from finetune.errors import UserError

Kind = Literal["torchvision artifact", "transformers folder", "state dict", "hub"]
STATE_DICT_SUFFIXES = (".safetensors", ".pth", ".pt")
ARTIFACT_FILE = "artifact.json"
CONFIG_FILE = "config.json"
_DEEPEST = 3


@dataclass(frozen=True, slots=True)
class Source:
    """Where a network comes from.

    Attributes:
        kind: what lies there.
        place: for people, such as `model channel`.
        path: the folder, or the file of a state dict; None for the hub.
        name: the network's name, where the source says it.
        artifact: content of `artifact.json`; empty where there is none.
    """

    kind: Kind
    place: str
    path: Path | None = None
    name: str | None = None
    artifact: Mapping[str, object] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """For people, such as `model channel (artifact of an earlier job)`."""
        if self.path is None:
            return self.place
        return f"{self.place} ({'artifact of an earlier job' if self.artifact else self._content()})"

    def _content(self) -> str:
        return f"state dict {self.path.name}" if self.kind == "state dict" and self.path else self.kind

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the outputs, where the artifact says them."""
        labels = self.artifact.get("labels")
        return tuple(str(label) for label in labels) if isinstance(labels, list) and labels else None

    @property
    def multi_label(self) -> bool | None:
        """Whether the network was trained for several classes per record, where the artifact says so."""
        value = self.artifact.get("multi_label")
        return value if isinstance(value, bool) else None


def identify(folder: Path, place: str, depth: int = 0) -> Source | None:
    """Say what `folder` holds, looking through folders that hold nothing but one folder; None: nothing known.

    Raises:
        UserError: an artifact or configuration that is damaged, or more than one state dict.
    """
    if (folder / ARTIFACT_FILE).is_file():
        return _artifact(folder, place)
    if (folder / CONFIG_FILE).is_file():
        return Source("transformers folder", place, folder)
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    states = [path for path in entries if path.suffix in STATE_DICT_SUFFIXES and path.is_file()]
    if len(states) > 1:
        names = ", ".join(path.name for path in states[:5])
        raise UserError(f"The {place} holds several files of weights ({names}): leave the one to start from.")
    if states:
        return Source("state dict", place, states[0])
    if len(entries) == 1 and entries[0].is_dir() and depth < _DEEPEST:
        return identify(entries[0], place, depth + 1)
    return None


def _artifact(folder: Path, place: str) -> Source:
    artifact = read_json(folder / ARTIFACT_FILE, place)
    match artifact:
        case {"framework": "transformers"}:
            return Source("transformers folder", place, folder, _text(artifact.get("name")), artifact)
        case {"framework": "torchvision", "architecture": str(name)}:
            return Source("torchvision artifact", place, folder / "model.safetensors", name, artifact)
    raise UserError(
        f"{ARTIFACT_FILE} in the {place} names no framework and architecture that are known: it was not written by"
        " this container. Give the model.tar.gz of an earlier job as it is."
    )


def read_json(path: Path, place: str) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} in the {place} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path.name} in the {place} is no JSON object.")
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
