"""Assembles files into a checkpoint atomically: none is visible before all are complete."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from finetune.checkpoint.layout import IGNORED_SUFFIX, MANIFEST
from finetune.checkpoint.retention import remove, sync_folder
from finetune.checkpoint.state import FlatState
from finetune.checkpoint.tensor_file import FileEntry, HashedFile, write_tensors


def unfinished(folder: Path, file: str) -> Path:
    """Return the temporary path of a file until the checkpoint is sealed; the sync agent skips this name."""
    return folder / (file + IGNORED_SUFFIX)


@contextmanager
def whole_or_not_at_all(folder: Path) -> Iterator[None]:
    """Create a checkpoint's folder, and remove it with all its content if the block fails."""
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        remove(folder)
        raise


def write_parts(folder: Path, parts: Mapping[str, FlatState]) -> dict[str, FileEntry]:
    """Write every part under temporary names and flush it to the disk; return the entries of the files."""
    files: dict[str, FileEntry] = {}
    for part, state in parts.items():
        if state.tensors:
            file = f"{part}.safetensors"
            files[file] = write_tensors(unfinished(folder, file), state.tensors)
        with HashedFile(unfinished(folder, f"{part}.json")) as values:
            values.write(json.dumps(state.values, allow_nan=False, separators=(",", ":")).encode())
        files[f"{part}.json"] = values.entry()
    return files


def seal(folder: Path, files: Mapping[str, FileEntry], manifest: bytes) -> None:
    """Rename the finished files, then write the manifest, which completes the checkpoint."""
    with HashedFile(unfinished(folder, MANIFEST)) as file:
        file.write(manifest)
    for name in files:
        unfinished(folder, name).rename(folder / name)
    sync_folder(folder)
    sync_folder(folder.parent)
    unfinished(folder, MANIFEST).rename(folder / MANIFEST)
    sync_folder(folder)
