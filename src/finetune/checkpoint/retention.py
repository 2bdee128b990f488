"""Selects superseded checkpoints, and removes them so that the remains are never mistaken for complete."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from finetune.checkpoint.layout import (
    IGNORED_SUFFIX,
    MANIFEST,
    UPLOADED_SUFFIX,
    UPLOADING_SUFFIX,
    CheckpointName,
    checkpoints_in,
    files_of,
    is_sync_marker,
    list_folder,
)
from finetune.checkpoint.manifest import InvalidCheckpointError
from finetune.checkpoint.reading import read_manifest

logger = logging.getLogger(__name__)

_MAX_SHOWN = 3
"""Maximum number of checkpoints logged individually."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that may be kept or removed.

    Attributes:
        name: Name of its folder.
        complete: Whether it is complete, as far as known without reading it.
        best: Whether it was the best so far when it was written.
        safe: Whether it is also where a restart would find it, so that older ones may be removed.
    """

    name: CheckpointName
    complete: bool
    best: bool = False
    safe: bool = False


def select_expired(candidates: Collection[Candidate], keep: int) -> list[CheckpointName]:
    """Return the checkpoints that may be removed, oldest first.

    The newest `keep` complete checkpoints are kept, and the newest one marked best. Of the others, including incomplete
    ones, only those older than a safe complete checkpoint may be removed.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.name.serial, reverse=True)
    complete = [candidate for candidate in ordered if candidate.complete]
    best = [candidate for candidate in complete if candidate.best]
    kept_names = {candidate.name for candidate in complete[:keep] + best[:1]}
    newest_safe = max((candidate.name.serial for candidate in complete if candidate.safe), default=-1)
    return [
        candidate.name
        for candidate in reversed(ordered)
        if candidate.name not in kept_names and candidate.name.serial < newest_safe
    ]


def list_candidates(folder: Path, broken: Collection[CheckpointName]) -> list[Candidate]:
    """List the removable checkpoints of a folder without reading tensors; those of other programs are left out.

    Args:
        folder: Checkpoints folder.
        broken: Checkpoints known to be damaged although their files have the right sizes.
    """
    names = checkpoints_in(folder)
    contents = {name: set(files_of(folder / str(name))) for name in names}
    markers_seen = any(is_sync_marker(file) for files in contents.values() for file in files)
    candidates = []
    for name in names:
        try:
            manifest = read_manifest(folder / str(name), name)
        except InvalidCheckpointError as error:
            if not error.foreign:
                candidates.append(Candidate(name, complete=False))
            continue
        safe = not markers_seen or _is_uploaded(contents[name], [*manifest.files, MANIFEST])
        candidates.append(Candidate(name, complete=name not in broken, best=manifest.info.best, safe=safe))
    return candidates


def remove_checkpoint(folder: Path, *, quiet: bool = False) -> bool:
    """Remove a checkpoint's files, the manifest first, then its folder; return whether it was removed.

    Subfolders are from other programs and are kept. A failure is logged unless `quiet`: the remains have no manifest
    and are removed next time.
    """
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        sync_folder(folder)
        for file in list_folder(folder):
            if not (folder / file).is_dir() or (folder / file).is_symlink():
                (folder / file).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        logger.log(
            logging.DEBUG if quiet else logging.WARNING, "Could not remove checkpoint %s: %s", folder.name, error
        )
        return False
    return True


def remove_temporaries(folder: Path) -> None:
    """Remove temporary files of interrupted writes from the checkpoints folder."""
    num_failed, removed_files = 0, dict[str, int]()
    for name in checkpoints_in(folder):
        checkpoint = folder / str(name)
        leftovers = [file for file in files_of(checkpoint) if file.endswith(IGNORED_SUFFIX)]
        try:
            for file in leftovers:
                (checkpoint / file).unlink()
        except OSError as error:
            num_failed += 1
            if num_failed <= _MAX_SHOWN:
                logger.warning("Could not remove temporary files of checkpoint %s: %s", name, error)
        if leftovers:
            with contextlib.suppress(OSError):
                checkpoint.rmdir()  # succeeds only if the folder is empty
            removed_files[str(name)] = len(leftovers)
    for checkpoint_name, count in list(removed_files.items())[:_MAX_SHOWN]:
        logger.info("Removed %d temporary files of the interrupted write of checkpoint %s", count, checkpoint_name)
    if len(removed_files) > _MAX_SHOWN:
        logger.info("Removed temporary files of %d more checkpoints", len(removed_files) - _MAX_SHOWN)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_uploaded(names: Collection[str], files: Collection[str]) -> bool:
    return all(file + UPLOADED_SUFFIX in names and file + UPLOADING_SUFFIX not in names for file in files)
