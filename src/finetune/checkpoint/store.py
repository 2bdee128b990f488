"""Checkpoint store: writes checkpoints to a folder atomically and finds the one to resume from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from finetune.checkpoint.layout import (
    IGNORED_SUFFIX,
    MANIFEST,
    RUN_HISTORY_FILE,
    CheckpointName,
    checkpoints_in,
    is_part_name,
    is_sync_marker,
    list_folder,
)
from finetune.checkpoint.manifest import CheckpointInfo, InvalidCheckpointError, Manifest
from finetune.checkpoint.reading import LoadedCheckpoint, load_checkpoint
from finetune.checkpoint.retention import (
    list_candidates,
    remove_checkpoint,
    remove_temporaries,
    select_expired,
    sync_folder,
)
from finetune.checkpoint.snapshot import Snapshot
from finetune.checkpoint.state import FlatState
from finetune.checkpoint.tensor_file import FileEntry, HashedFile, write_tensors
from finetune.errors import PlatformError

logger = logging.getLogger(__name__)

_MAX_SHOWN = 3
"""Maximum number of names in a warning about the folder's content."""
_MAX_NAME_CHARACTERS = 100


class StopDeadlineError(Exception):
    """The job was stopped and has no time left for an operation, which the message names."""


class CheckpointStore:
    """Checkpoints of one job in a folder that the platform may be copying at the same time.

    Only one process may write; others may read. `write` may run in a separate thread, one call at a time.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Initialize without accessing the folder.

        Args:
            folder: Checkpoints folder; created with the first checkpoint.
            keep: Number of newest complete checkpoints to keep; at least 1.
        """
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, not {keep}")
        self.folder = folder
        self.keep = keep
        self._last_serial = 0
        self._damaged: set[CheckpointName] = set()
        self._unremovable: set[CheckpointName] = set()

    def restore(self) -> LoadedCheckpoint | None:
        """Remove remains of interrupted writes and return the newest complete checkpoint; call once at the start.

        Raises:
            PlatformError: The folder cannot be read.
        """
        self.names()  # so that serial numbers removed now are not reused
        remove_temporaries(self.folder)
        return self.newest_complete()

    def newest_complete(self) -> LoadedCheckpoint | None:
        """Return the newest checkpoint with all files unmodified, or None; log the skipped ones.

        Raises:
            PlatformError: The folder cannot be read.
        """
        names = self.names()
        self._warn_about_foreign_entries(names)
        num_skipped = 0
        try:
            for name in names:
                try:
                    loaded = load_checkpoint(self.folder / str(name), name)
                except InvalidCheckpointError as error:
                    self._damaged.add(name)
                    num_skipped += 1
                    if num_skipped <= _MAX_SHOWN:
                        logger.warning("Skipping checkpoint %s: %s", name, error)
                else:
                    self._damaged.discard(name)
                    return loaded
            return None
        finally:
            if num_skipped > _MAX_SHOWN:
                logger.warning("Skipped %d more checkpoints in %s", num_skipped - _MAX_SHOWN, self.folder)

    def write(self, snapshot: Snapshot, info: CheckpointInfo) -> CheckpointName:
        """Write a checkpoint and remove those that it supersedes.

        Raises:
            PlatformError: The disk is full or broken; this checkpoint is removed, earlier ones are intact.
            TypeError: A tensor has a dtype that cannot be written.
            ValueError: A part's name or the step is invalid in a file name.
        """
        invalid_names = [part for part in snapshot.parts if not is_part_name(part)]
        if invalid_names or info.step < 0:
            raise ValueError(f"a checkpoint cannot have the parts {invalid_names} at step {info.step}")
        self._remove_expired()  # the agent may have caught up since the last time
        name = CheckpointName(info.step, self._next_serial())
        folder = self.folder / str(name)
        try:
            with new_checkpoint_folder(folder):
                files = write_parts(folder, snapshot.parts)
                finalize_checkpoint(folder, files, Manifest(name, info, time.time(), files).encode())
        except OSError as error:
            logger.warning("Could not write checkpoint %s: %s; earlier checkpoints are intact", name, error.strerror)
            raise PlatformError(
                f"checkpoint {name} could not be written to {self.folder}: {error.strerror}. Earlier checkpoints are "
                "intact. Use a larger volume or another folder."
            ) from error
        logger.debug("Wrote checkpoint %s (%s)", name, info.kind)
        self._remove_expired()
        return name

    def names(self) -> list[CheckpointName]:
        """Return the names of all checkpoints, complete or not, newest first.

        Raises:
            PlatformError: The folder cannot be read.
        """
        try:
            names = checkpoints_in(self.folder)
        except OSError as error:
            raise PlatformError(
                f"checkpoints folder {self.folder} cannot be read: {error.strerror}. Use a folder that the job may "
                "read and write."
            ) from error
        self.skip_serials(names)
        return names

    def skip_serials(self, names: Iterable[CheckpointName]) -> None:
        """Never reuse the serial numbers of these checkpoints, which exist here or elsewhere."""
        self._last_serial = max([self._last_serial, *(name.serial for name in names)])

    def _next_serial(self) -> int:
        self.names()
        self._last_serial += 1
        return self._last_serial

    def _remove_expired(self) -> None:
        try:
            names = select_expired(list_candidates(self.folder, self._damaged), self.keep)
        except OSError as error:
            logger.warning("Could not list old checkpoints in %s: %s", self.folder, error)
            return
        for name in names:
            quiet = name in self._unremovable or len(self._unremovable) >= _MAX_SHOWN
            if not remove_checkpoint(self.folder / str(name), quiet=quiet):
                self._unremovable.add(name)
            else:
                logger.debug("Removed superseded checkpoint %s", name)

    def _warn_about_foreign_entries(self, names: Iterable[CheckpointName]) -> None:
        names_of_checkpoints = set(map(str, names))
        foreign = [
            entry
            for entry in list_folder(self.folder)
            if entry not in names_of_checkpoints and not is_sync_marker(entry) and entry != RUN_HISTORY_FILE
        ]
        if foreign:
            listed = ", ".join(entry[:_MAX_NAME_CHARACTERS] for entry in foreign[:_MAX_SHOWN])
            more = f" and {len(foreign) - _MAX_SHOWN} more" if len(foreign) > _MAX_SHOWN else ""
            logger.warning(
                "Ignoring %s%s in the checkpoints folder: not a checkpoint of this program",
                listed,
                more,
            )


def temporary_path(folder: Path, file: str) -> Path:
    """Return the temporary path of a file until the checkpoint is sealed; the sync agent skips this name."""
    return folder / (file + IGNORED_SUFFIX)


@contextmanager
def new_checkpoint_folder(folder: Path) -> Iterator[None]:
    """Create a checkpoint's folder, and remove it with all its content if the block fails."""
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        remove_checkpoint(folder)
        raise


def write_parts(folder: Path, parts: Mapping[str, FlatState]) -> dict[str, FileEntry]:
    """Write every part under temporary names and flush it to the disk; return the entries of the files."""
    files: dict[str, FileEntry] = {}
    for part, state in parts.items():
        if state.tensors:
            file = f"{part}.safetensors"
            files[file] = write_tensors(temporary_path(folder, file), state.tensors)
        with HashedFile(temporary_path(folder, f"{part}.json")) as values:
            values.write(json.dumps(state.values, allow_nan=False, separators=(",", ":")).encode())
        files[f"{part}.json"] = values.entry()
    return files


def finalize_checkpoint(folder: Path, files: Mapping[str, FileEntry], manifest: bytes) -> None:
    """Rename the finished files, then write the manifest, which completes the checkpoint."""
    with HashedFile(temporary_path(folder, MANIFEST)) as file:
        file.write(manifest)
    for name in files:
        temporary_path(folder, name).rename(folder / name)
    sync_folder(folder)
    sync_folder(folder.parent)
    temporary_path(folder, MANIFEST).rename(folder / MANIFEST)
    sync_folder(folder)
