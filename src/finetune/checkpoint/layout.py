"""File and folder names in the checkpoints folder.

```
step-000000123-000007/        step, then a serial number that increases with every checkpoint of the folder
├── model.safetensors         tensors of the part `model`
├── model.json                all other values of that part
└── manifest.json             size and hash of every file; its presence means that the rest is complete
```

The serial number makes every name unique: a job that repeats a step after an interruption never writes into a folder
that the sync agent may be copying. It also identifies the newest checkpoint if a job was restarted from scratch in the
folder of an older one that had run for more steps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
# Written by the job alongside its checkpoints and ignored by the store.
RUN_HISTORY_FILE = "account.json"
# The agent skips files with this suffix. Its treatment of folders is not documented, so every file gets the suffix.
IGNORED_SUFFIX = ".sagemaker-ignore"
UPLOADING_SUFFIX = ".sagemaker-uploading"
UPLOADED_SUFFIX = ".sagemaker-uploaded"

MAX_SERIAL = 10**12
"""Larger serial numbers are only accepted for folders with a manifest: continuing from another folder could leave no
number for the next checkpoint."""

_NAME = re.compile(r"step-([0-9]{9,15})-([0-9]{6,15})")
_PART = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FILE = re.compile(r"([a-z][a-z0-9_]{0,63})\.(?:safetensors|json)")


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """Parsed folder name of a checkpoint."""

    step: int
    serial: int

    def __str__(self) -> str:
        return f"step-{self.step:09d}-{self.serial:06d}"


def parse_name(text: str) -> CheckpointName | None:
    """Parse a folder name; return None if it is not that of a checkpoint."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    name = CheckpointName(int(match[1]), int(match[2]))
    return name if str(name) == text else None


def is_part_name(text: str) -> bool:
    """Whether a part name is valid: safe as a file name on all systems, and not that of the manifest."""
    return _PART.fullmatch(text) is not None and f"{text}.json" != MANIFEST


def part_name(file: str) -> str | None:
    """Return the part that a file belongs to, or None if the name belongs to no part."""
    match = _FILE.fullmatch(file)
    return match[1] if match is not None and is_part_name(match[1]) else None


def is_sync_marker(file: str) -> bool:
    """Whether a file is a marker that the sync agent creates next to the files it copies."""
    return file.endswith((UPLOADING_SUFFIX, UPLOADED_SUFFIX))


def newest_first(names: Iterable[str]) -> list[CheckpointName]:
    """Return the names that are those of checkpoints, newest first."""
    parsed = (parse_name(name) for name in names)
    return sorted(
        (name for name in parsed if name is not None), key=lambda name: (name.serial, name.step), reverse=True
    )


def checkpoints_in(folder: Path) -> list[CheckpointName]:
    """Return the names of all checkpoints of this program, complete or not, newest first.

    Raises:
        OSError: The folder cannot be listed.
    """
    names = newest_first(list_folder(folder))
    return [name for name in names if name.serial <= MAX_SERIAL or (folder / str(name) / MANIFEST).is_file()]


def files_of(checkpoint: Path) -> list[str]:
    """Return the sorted names in a checkpoint's folder; empty if it cannot be listed."""
    try:
        return list_folder(checkpoint)
    except OSError:
        return []


def list_folder(folder: Path) -> list[str]:
    """Return the sorted names in a folder; empty if it does not exist.

    Raises:
        OSError: The folder cannot be listed.
    """
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []
