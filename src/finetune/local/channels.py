"""Channels of a local job from the paths that a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import UserError

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Usual names of the folders and files of a data set that has been split, by channel."""

_WEIGHT_ENDINGS = (".tar.gz", ".tgz", ".tar", ".safetensors", ".pt", ".pth", ".bin")
_RUN_MODEL = Path("model")
_ARTIFACT = "artifact.json"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model to start from: the name of a model, or a path for the `model` channel.

    Attributes:
        name: value of `model_name`.
        path: an archive, a folder or a file of weights.
    """

    name: str | None = None
    path: Path | None = None


def find_channels(data: Path, given: Mapping[str, Path | None]) -> dict[str, Path]:
    """Return the path of each channel.

    Args:
        data: records to train on, or a folder that contains only the splits of a data set, such as `train` and `test`.
        given: paths of the other channels by name; `None` for a channel that is not given.

    Raises:
        UserError: a path does not exist.
    """
    chosen = {name: path for name, path in given.items() if path is not None}
    channels = {**_splits(data), **chosen}
    for name, path in channels.items():
        if not path.exists():
            raise UserError(f"{name}={path}: there is no such file or folder.")
    return {name: path.absolute() for name, path in channels.items()}


def _splits(data: Path) -> dict[str, Path]:
    """Return the splits in a folder, or the folder itself as `train` if it contains anything else."""
    entries = [path for path in data.iterdir() if not path.name.startswith(".")] if data.is_dir() else []
    splits = {
        name: path
        for name, names in SPLITS.items()
        for path in entries
        if (path.name if path.is_dir() else path.name.partition(".")[0]).lower() in names
    }
    return splits if "train" in splits and 2 <= len(splits) == len(entries) else {"train": data}


def choose_model(model: str | None) -> ModelChoice:
    """Return the model that a name or a path selects; an existing path takes precedence.

    Raises:
        UserError: a path does not exist.
    """
    if model is None:
        return ModelChoice()
    path = Path(model)
    if path.exists():
        is_run = (path / _RUN_MODEL / _ARTIFACT).is_file()
        return ModelChoice(path=(path / _RUN_MODEL if is_run else path).absolute())
    if model.startswith((".", "/", "~")) or model.endswith(_WEIGHT_ENDINGS):
        raise UserError(f"model {model!r}: there is no such file or folder.")
    return ModelChoice(name=model)
