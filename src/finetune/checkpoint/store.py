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
    is_marker,
    is_part_name,
    list_folder,
)
from finetune.checkpoint.manifest import CheckpointInfo, Manifest, UnusableError
from finetune.checkpoint.reading import LoadedCheckpoint, load_checkpoint
from finetune.checkpoint.retention import expired, remove, remove_temporaries, survey, sync_folder
from finetune.checkpoint.snapshot import Snapshot
from finetune.checkpoint.state import FlatState
from finetune.checkpoint.tensor_file import FileEntry, HashedFile, write_tensors
from finetune.errors import PlatformError

logger = logging.getLogger(__name__)

_SHOWN = 3
"""Maximum number of names in a warning about the folder's content."""
_SHOWN_CHARACTERS = 100


class TooLateError(Exception):
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
        self._broken: set[CheckpointName] = set()
        self._stuck: set[CheckpointName] = set()

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
        self._name_foreign(names)
        passed_over = 0
        try:
            for name in names:
                try:
                    loaded = load_checkpoint(self.folder / str(name), name)
                except UnusableError as error:
                    self._broken.add(name)
                    passed_over += 1
                    if passed_over <= _SHOWN:
                        logger.warning("checkpoint %s is passed over: %s", name, error)
                else:
                    self._broken.discard(name)
                    return loaded
            return None
        finally:
            if passed_over > _SHOWN:
                logger.warning("so are %d more checkpoints in %s", passed_over - _SHOWN, self.folder)

    def write(self, snapshot: Snapshot, about: CheckpointInfo) -> CheckpointName:
        """Write a checkpoint and remove those that it supersedes.

        Raises:
            PlatformError: The disk is full or broken; this checkpoint is removed, earlier ones are intact.
            TypeError: A tensor has a dtype that cannot be written.
            ValueError: A part's name or the step is invalid in a file name.
        """
        wrong = [part for part in snapshot.parts if not is_part_name(part)]
        if wrong or about.step < 0:
            raise ValueError(f"a checkpoint cannot have the parts {wrong} at step {about.step}")
        self._remove_expired()  # the agent may have caught up since the last time
        name = CheckpointName(about.step, self._next_serial())
        folder = self.folder / str(name)
        try:
            with whole_or_not_at_all(folder):
                files = write_parts(folder, snapshot.parts)
                seal(folder, files, Manifest(name, about, time.time(), files).encode())
        except OSError as error:
            logger.warning("checkpoint %s was not written: %s; earlier ones are intact", name, error.strerror)
            raise PlatformError(
                f"checkpoint {name} could not be written to {self.folder}: {error.strerror}. Earlier checkpoints are "
                "intact. Give the job a larger volume, or let it write elsewhere."
            ) from error
        logger.debug("checkpoint %s (%s) is complete", name, about.kind)
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
                f"checkpoints folder {self.folder} cannot be read: {error.strerror}. Give the job a folder that it may "
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
            names = expired(survey(self.folder, self._broken), self.keep)
        except OSError as error:
            logger.warning("old checkpoints in %s could not be looked at: %s", self.folder, error)
            return
        for name in names:
            quiet = name in self._stuck or len(self._stuck) >= _SHOWN
            if not remove(self.folder / str(name), quiet=quiet):
                self._stuck.add(name)
            else:
                logger.debug("checkpoint %s is superseded and was removed", name)

    def _name_foreign(self, names: Iterable[CheckpointName]) -> None:
        ours = set(map(str, names))
        foreign = [
            entry
            for entry in list_folder(self.folder)
            if entry not in ours and not is_marker(entry) and entry != RUN_HISTORY_FILE
        ]
        if foreign:
            shown = ", ".join(entry[:_SHOWN_CHARACTERS] for entry in foreign[:_SHOWN])
            more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
            logger.warning(
                "%s%s in the checkpoints folder %s passed over: not a checkpoint of this program",
                shown,
                more,
                "is" if len(foreign) == 1 else "are",
            )


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
