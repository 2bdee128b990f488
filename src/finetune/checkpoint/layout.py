"""What is called how below the checkpoints folder?

```
step-000000123-000007/        step, then a serial number that grows with every checkpoint of the folder
├── model.safetensors         tensors of the part `model`
├── model.json                everything else of that part
└── manifest.json             size and hash of every file; its presence says that the rest is there
```

The serial number makes every name new: a job that repeats a step after an interruption never writes into a folder that
the sync agent may be copying. It also says which checkpoint is the newest where a job was begun anew beside an older
one that had come further.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
# What the job keeps beside its checkpoints, and the store leaves alone.
ACCOUNT_FILE = "account.json"
# The agent skips files, by their name; what it does with a folder of that name is not documented. So every file has it.
IGNORED_SUFFIX = ".sagemaker-ignore"
UPLOADING_SUFFIX = ".sagemaker-uploading"
UPLOADED_SUFFIX = ".sagemaker-uploaded"

LAST_SERIAL = 10**12
"""A greater number counts only where there is a manifest: from any other folder of that name, counting on could leave
no number for the next checkpoint."""

_NAME = re.compile(r"step-([0-9]{9,15})-([0-9]{6,15})")
_PART = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FILE = re.compile(r"([a-z][a-z0-9_]{0,63})\.(?:safetensors|json)")


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """A checkpoint's folder name, taken apart."""

    step: int
    serial: int

    def __str__(self) -> str:
        return f"step-{self.step:09d}-{self.serial:06d}"


def parse_name(text: str) -> CheckpointName | None:
    """Return the name's parts, or None where it is not a checkpoint's."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    name = CheckpointName(int(match[1]), int(match[2]))
    return name if str(name) == text else None


def is_part_name(text: str) -> bool:
    """Whether a part may be called so: what is safe as a file name everywhere, and not the manifest's."""
    return _PART.fullmatch(text) is not None and f"{text}.json" != MANIFEST


def part_of(file: str) -> str | None:
    """Return the part that a file belongs to, or None where no part has a file of this name."""
    match = _FILE.fullmatch(file)
    return match[1] if match is not None and is_part_name(match[1]) else None


def is_marker(file: str) -> bool:
    """Whether a file is one that the sync agent leaves beside what it copies."""
    return file.endswith((UPLOADING_SUFFIX, UPLOADED_SUFFIX))


def newest_first(names: Iterable[str]) -> list[CheckpointName]:
    """Return those that are names of checkpoints, the last written first."""
    parsed = (parse_name(name) for name in names)
    return sorted(
        (name for name in parsed if name is not None), key=lambda name: (name.serial, name.step), reverse=True
    )


def checkpoints_in(folder: Path) -> list[CheckpointName]:
    """Names of all that looks like a checkpoint of this program, whole or not, the last written first.

    Raises:
        OSError: the folder cannot be looked into.
    """
    names = newest_first(list_folder(folder))
    return [name for name in names if name.serial <= LAST_SERIAL or (folder / str(name) / MANIFEST).is_file()]


def files_of(checkpoint: Path) -> list[str]:
    """Names in a checkpoint's folder, sorted; none where it cannot be looked into."""
    try:
        return list_folder(checkpoint)
    except OSError:
        return []


def list_folder(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where it does not exist.

    Raises:
        OSError: it cannot be looked into.
    """
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []
