"""Mirrors checkpoints to S3 if no platform synchronizes the folder.

Uses the same files and names, with the manifest uploaded last. S3 replaces single objects atomically, but a checkpoint
consists of several, so downloads are verified in the same way as folders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from boto3.s3.transfer import TransferConfig

from finetune.checkpoint.layout import IGNORED_SUFFIX, MANIFEST, MAX_SERIAL, CheckpointName, newest_first
from finetune.checkpoint.manifest import (
    MAX_MANIFEST_BYTES,
    CheckpointInfo,
    InvalidCheckpointError,
    Manifest,
    parse_manifest,
)
from finetune.checkpoint.reading import LoadedCheckpoint, check_hashes, read_manifest
from finetune.checkpoint.retention import Candidate, remove_checkpoint, select_expired
from finetune.checkpoint.s3_access import S3_FAILURES, S3Location, S3Timeouts, create_client, to_job_error
from finetune.checkpoint.snapshot import Snapshot
from finetune.checkpoint.store import (
    CheckpointStore,
    StopDeadlineError,
    finalize_checkpoint,
    new_checkpoint_folder,
    temporary_path,
)
from finetune.errors import PlatformError

logger = logging.getLogger(__name__)

_MAX_SHOWN = 3
"""Maximum number of checkpoints with a warning of their own."""
_WRITE_CHECK_KEY = f"write-check{IGNORED_SUFFIX}"
_Listing = Mapping[CheckpointName, Mapping[str, int]]


class S3Mirror:
    """Drop-in replacement for a store that also copies its checkpoints to S3."""

    def __init__(
        self,
        store: CheckpointStore,
        location: S3Location,
        timeouts: S3Timeouts | None = None,
        seconds_since_stop: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Create a client, without sending a request.

        Args:
            store: Local store written first; its `keep` applies to S3 too.
            location: Location of the checkpoints in S3.
            timeouts: Timeouts and retries for S3.
            seconds_since_stop: Returns the seconds since the job was asked to stop, or 0.

        Raises:
            UserError: The environment does not allow creating a client.
        """
        self._store = store
        self._location = location
        self._timeouts = timeouts or S3Timeouts()
        self._seconds_since_stop = seconds_since_stop
        self._restoring = False
        self._num_skipped = 0
        self._client = create_client(self._timeouts)
        self._client.meta.events.register("before-send.s3", self._check_stop_deadline)
        self._manifests: dict[CheckpointName, Manifest | InvalidCheckpointError] = {}
        self._transfer = TransferConfig(multipart_chunksize=32 << 20, max_concurrency=4)

    def restore(self) -> LoadedCheckpoint | None:
        """Return the newest complete checkpoint of folder and S3; call once at the start.

        Raises:
            UserError: Bucket, permissions or credentials are wrong.
            PlatformError: S3 does not answer, or the folder cannot be used.
            TooLateError: The job was stopped during the restore.
        """
        self._restoring, self._num_skipped = True, 0
        try:
            return self._restore_newest()
        finally:
            self._restoring = False

    def _restore_newest(self) -> LoadedCheckpoint | None:
        try:
            self._check_write_permission()
            listing = self._list()
        except S3_FAILURES as error:
            self._check_stop_deadline()
            raise to_job_error(error, self._location) from error
        local = self._store.restore()
        self._store.skip_serials(listing)
        for name in sorted(listing, key=lambda name: name.serial, reverse=True):
            if local is not None and name.serial <= local.manifest.name.serial:
                break
            if self._download_checkpoint(name, listing[name]):
                return self._store.newest_complete()
        return local

    def write(self, snapshot: Snapshot, info: CheckpointInfo) -> CheckpointName:
        """Write a checkpoint to the folder, then upload it; a failed upload is logged and the job continues.

        Raises:
            PlatformError: The checkpoint could not be written to the folder.
        """
        name = self._store.write(snapshot, info)
        try:
            self._upload_files(name)
            self._remove_expired()
        except S3_FAILURES as error:
            self._warn(name, str(to_job_error(error, self._location)))
        except (InvalidCheckpointError, OSError, StopDeadlineError) as error:
            self._warn(name, str(error))
        return name

    def _check_stop_deadline(self, *_: object, **__: object) -> None:
        """Raise if a stopped job's time limit is over (0 in a restore); called before requests and in transfers."""
        limit = 0.0 if self._restoring else self._timeouts.stop_seconds
        if self._seconds_since_stop() > limit:
            raise StopDeadlineError(f"S3 did not respond within {limit:.0f} s after the stop request.")

    def _warn(self, name: CheckpointName, reason: str) -> None:
        logger.warning(
            "Could not upload checkpoint %s to S3; it is saved in its folder and the job continues. %s", name, reason
        )

    def _check_write_permission(self) -> None:
        """Check early, not at the first checkpoint, that the job has permission to write."""
        key = self._location.prefix + _WRITE_CHECK_KEY
        self._client.put_object(Bucket=self._location.bucket, Key=key, Body=b"")
        try:
            self._client.delete_object(Bucket=self._location.bucket, Key=key)
        except S3_FAILURES as error:
            logger.warning("Old checkpoints cannot be deleted from S3. %s", to_job_error(error, self._location))

    def _list(self) -> _Listing:
        """Return all checkpoints in S3 with their files: file name -> size in bytes."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._location.bucket, Prefix=f"{self._location.prefix}step-"
        )
        files_by_folder: dict[str, dict[str, int]] = {}
        for page in pages:
            for item in page.get("Contents", ()):
                folder, slash, file = str(item["Key"]).removeprefix(self._location.prefix).partition("/")
                if slash and file and "/" not in file:
                    files_by_folder.setdefault(folder, {})[file] = int(item["Size"])
        return {
            name: files_by_folder[str(name)]
            for name in newest_first(files_by_folder)
            if name.serial <= MAX_SERIAL or MANIFEST in files_by_folder[str(name)]
        }

    def _upload_files(self, name: CheckpointName) -> None:
        folder = self._store.folder / str(name)
        manifest = read_manifest(folder, name)
        files = [*manifest.files, MANIFEST]
        for number, file in enumerate(files):
            try:
                self._client.upload_file(
                    str(folder / file),
                    self._location.bucket,
                    self._key(name, file),
                    Callback=self._check_stop_deadline,
                    Config=self._transfer,
                )
            except StopDeadlineError as error:
                raise StopDeadlineError(f"{error} Not uploaded: {', '.join(files[number:])}") from error
        self._manifests[name] = manifest

    def _download_checkpoint(self, name: CheckpointName, sizes: Mapping[str, int]) -> bool:
        """Download a checkpoint if it is complete in S3; otherwise log the problem and return False."""
        folder = self._store.folder / str(name)
        try:
            manifest, content = self._read_manifest(name, sizes)
            if folder.is_dir():
                remove_checkpoint(folder)  # it was skipped as broken
            with new_checkpoint_folder(folder):
                self._download_files(folder, manifest)
                finalize_checkpoint(folder, manifest.files, content)
        except InvalidCheckpointError as error:
            self._skip(name, str(error))
            return False
        except S3_FAILURES as error:
            self._check_stop_deadline()  # else an older one would be resumed, and its successor mistaken for the newest
            self._skip(name, str(to_job_error(error, self._location)))
            return False
        except OSError as error:
            raise PlatformError(
                f"checkpoint {name} could not be downloaded from {self._location} to {folder.parent}: "
                f"{error.strerror}. Use a larger volume."
            ) from error
        return True

    def _skip(self, name: CheckpointName, reason: str) -> None:
        self._num_skipped += 1
        if self._num_skipped <= _MAX_SHOWN:
            logger.warning("Skipping checkpoint %s in S3: %s", name, reason)
        elif self._num_skipped == _MAX_SHOWN + 1:
            logger.warning("Skipping further checkpoints in S3 without a warning for each")

    def _read_manifest(self, name: CheckpointName, sizes: Mapping[str, int]) -> tuple[Manifest, bytes]:
        """Read a manifest and check that every file exists with its size.

        Raises:
            UnusableError: The checkpoint is incomplete.
        """
        if sizes.get(MANIFEST, MAX_MANIFEST_BYTES + 1) > MAX_MANIFEST_BYTES:
            raise InvalidCheckpointError("no manifest", foreign=MANIFEST in sizes)
        response = self._client.get_object(Bucket=self._location.bucket, Key=self._key(name, MANIFEST))
        content: bytes = response["Body"].read()
        manifest = parse_manifest(content, name)
        for file, entry in manifest.files.items():
            if sizes.get(file) != entry.size:
                raise InvalidCheckpointError(f"{file} has {sizes.get(file, 'no')} bytes instead of {entry.size}")
        return manifest, content

    def _download_files(self, folder: Path, manifest: Manifest) -> None:
        for file in manifest.files:
            target = temporary_path(folder, file)
            self._client.download_file(
                self._location.bucket,
                self._key(manifest.name, file),
                str(target),
                Callback=self._check_stop_deadline,
                Config=self._transfer,
            )
        check_hashes({temporary_path(folder, file): entry for file, entry in manifest.files.items()})

    def _remove_expired(self) -> None:
        listing = self._list()
        candidates = []
        for name, sizes in listing.items():
            manifest = self._cached_manifest(name, sizes)
            if isinstance(manifest, Manifest):
                candidates.append(Candidate(name, complete=True, best=manifest.info.best, safe=True))
            elif not manifest.foreign:
                candidates.append(Candidate(name, complete=False))
        for name in select_expired(candidates, self._store.keep):
            self._delete(name, listing[name])

    def _cached_manifest(self, name: CheckpointName, sizes: Mapping[str, int]) -> Manifest | InvalidCheckpointError:
        if name not in self._manifests:
            try:
                self._manifests[name], _ = self._read_manifest(name, sizes)
            except InvalidCheckpointError as error:
                self._manifests[name] = error
        return self._manifests[name]

    def _delete(self, name: CheckpointName, files: Mapping[str, int]) -> None:
        for file in sorted(files, key=lambda file: file != MANIFEST):
            self._client.delete_object(Bucket=self._location.bucket, Key=self._key(name, file))
        logger.debug("Removed superseded checkpoint %s from S3", name)

    def _key(self, name: CheckpointName, file: str) -> str:
        return f"{self._location.prefix}{name}/{file}"
