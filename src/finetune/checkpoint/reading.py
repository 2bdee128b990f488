"""Reads checkpoints and verifies that they are complete and unmodified."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from finetune.checkpoint.layout import MANIFEST, CheckpointName, part_name
from finetune.checkpoint.manifest import MAX_MANIFEST_BYTES, InvalidCheckpointError, Manifest, parse_manifest
from finetune.checkpoint.state import FlatState, unflatten_state
from finetune.checkpoint.tensor_file import FileEntry, hash_file, read_tensors

_NUM_THREADS = 4


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """Checkpoint whose files were all verified by their hashes.

    Attributes:
        manifest: Manifest of the checkpoint.
        parts: Name -> nested state as returned by the part's `state_dict()`, with newly allocated CPU tensors.
    """

    manifest: Manifest
    parts: Mapping[str, Any]


def read_manifest(folder: Path, name: CheckpointName) -> Manifest:
    """Read a checkpoint's manifest and check that all files exist with their sizes, without reading them.

    Raises:
        UnusableError: The manifest is missing, damaged or of another program, or a file is missing or has another size.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise InvalidCheckpointError("not a folder", foreign=True)
    try:
        size = _size_of(folder / MANIFEST)
        if size > MAX_MANIFEST_BYTES:
            raise InvalidCheckpointError(f"manifest has {size} bytes", foreign=True)
        manifest = parse_manifest((folder / MANIFEST).read_bytes(), name)
        for file, entry in manifest.files.items():
            size = _size_of(folder / file)
            if size != entry.size:
                raise InvalidCheckpointError(f"{file} has {size} bytes instead of {entry.size}")
    except OSError as error:
        raise InvalidCheckpointError(_reason(error)) from error
    return manifest


def load_checkpoint(folder: Path, name: CheckpointName) -> LoadedCheckpoint:
    """Read a complete checkpoint after verifying the hash of every file.

    Raises:
        UnusableError: The checkpoint is incomplete or damaged.
    """
    manifest = read_manifest(folder, name)
    try:
        check_hashes({folder / file: entry for file, entry in manifest.files.items()})
        parts = {part: _load_part(folder, part, manifest) for part in _part_names(manifest)}
    except OSError as error:
        raise InvalidCheckpointError(_reason(error)) from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InvalidCheckpointError(f"cannot be read although its hashes match: {error}") from error
    return LoadedCheckpoint(manifest, parts)


def check_hashes(files: Mapping[Path, FileEntry]) -> None:
    """Verify the hashes of files, several at a time.

    Raises:
        UnusableError: A file has other content.
        OSError: A file cannot be read.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for path, digest in zip(files, pool.map(hash_file, files), strict=True):
            if digest != files[path].sha256:
                raise InvalidCheckpointError(f"content of {path.name} does not match its hash")


def _part_names(manifest: Manifest) -> list[str]:
    return sorted({part for file in manifest.files if (part := part_name(file)) is not None})


def _load_part(folder: Path, part: str, manifest: Manifest) -> object:
    if f"{part}.json" not in manifest.files:
        raise ValueError(f"{part}.json is not in the manifest")
    values = json.loads((folder / f"{part}.json").read_text("utf-8"))
    tensors: Mapping[str, Tensor] = {}
    if f"{part}.safetensors" in manifest.files:
        tensors = read_tensors(folder / f"{part}.safetensors")
    return unflatten_state(FlatState(tensors, values))


def _reason(error: OSError) -> str:
    prefix = "" if error.filename is None else f"{Path(str(error.filename)).name}: "
    return f"{prefix}{error.strerror}"


def _size_of(path: Path) -> int:
    """Return the size of a regular file; refuse pipes, which block on opening, and links, which may lead anywhere."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidCheckpointError(f"{path.name} is not a file")
    return status.st_size
