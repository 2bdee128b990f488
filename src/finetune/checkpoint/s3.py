"""Mirrors checkpoints to S3 if no platform synchronizes the folder.

Uses the same files and names, with the manifest uploaded last. S3 replaces single objects atomically, but a checkpoint
consists of several, so downloads are verified in the same way as folders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from boto3.s3.transfer import TransferConfig

from finetune.checkpoint.layout import IGNORED_SUFFIX, LAST_SERIAL, MANIFEST, CheckpointName, newest_first
from finetune.checkpoint.manifest import MAX_MANIFEST_BYTES, CheckpointInfo, Manifest, UnusableError, parse_manifest
from finetune.checkpoint.reading import LoadedCheckpoint, check_hashes, read_manifest
from finetune.checkpoint.retention import Candidate, expired, remove
from finetune.checkpoint.s3_access import S3_FAILURES, Patience, S3Location, connect, explain
from finetune.checkpoint.snapshot import Snapshot
from finetune.checkpoint.store import CheckpointStore, TooLateError, seal, unfinished, whole_or_not_at_all
from finetune.errors import PlatformError

logger = logging.getLogger(__name__)

_SHOWN = 3
"""Maximum number of checkpoints with a warning of their own."""
_PROBE = f"write-check{IGNORED_SUFFIX}"
_Listing = Mapping[CheckpointName, Mapping[str, int]]


class S3Mirror:
    """Drop-in replacement for a store that also copies its checkpoints to S3."""

    def __init__(
        self,
        store: CheckpointStore,
        location: S3Location,
        patience: Patience | None = None,
        asked_to_stop: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Create a client, without sending a request.

        Args:
            store: Local store written first; its `keep` applies to S3 too.
            location: Location of the checkpoints in S3.
            patience: Timeouts and retries for S3.
            asked_to_stop: Returns the seconds since the job was told to stop, or 0.

        Raises:
            UserError: The environment does not allow creating a client.
        """
        self._store = store
        self._location = location
        self._patience = patience or Patience()
        self._asked_to_stop = asked_to_stop
        self._restoring = False
        self._passed_over = 0
        self._client = connect(self._patience)
        self._client.meta.events.register("before-send.s3", self._refuse_when_late)
        self._manifests: dict[CheckpointName, Manifest | UnusableError] = {}
        self._transfer = TransferConfig(multipart_chunksize=32 << 20, max_concurrency=4)

    def restore(self) -> LoadedCheckpoint | None:
        """Return the newest complete checkpoint of folder and S3; call once at the start.

        Raises:
            UserError: Bucket, permissions or credentials are wrong.
            PlatformError: S3 does not answer, or the folder cannot be used.
            TooLateError: The job was stopped during the restore.
        """
        self._restoring, self._passed_over = True, 0
        try:
            return self._restored()
        finally:
            self._restoring = False

    def _restored(self) -> LoadedCheckpoint | None:
        try:
            self._check_writing()
            listing = self._list()
        except S3_FAILURES as error:
            self._refuse_when_late()
            raise explain(error, self._location) from error
        local = self._store.restore()
        self._store.skip_serials(listing)
        for name in sorted(listing, key=lambda name: name.serial, reverse=True):
            if local is not None and name.serial <= local.manifest.name.serial:
                break
            if self._fetched(name, listing[name]):
                return self._store.newest_complete()
        return local

    def write(self, snapshot: Snapshot, about: CheckpointInfo) -> CheckpointName:
        """Write a checkpoint to the folder, then upload it; a failed upload is logged and the job continues.

        Raises:
            PlatformError: The checkpoint could not be written to the folder.
        """
        name = self._store.write(snapshot, about)
        try:
            self._upload(name)
            self._remove_expired()
        except S3_FAILURES as error:
            self._warn(name, str(explain(error, self._location)))
        except (UnusableError, OSError, TooLateError) as error:
            self._warn(name, str(error))
        return name

    def _refuse_when_late(self, *_: object, **__: object) -> None:
        """Raise if a stopped job's time limit is over (0 in a restore); called before requests and in transfers."""
        limit = 0.0 if self._restoring else self._patience.stop_seconds
        if self._asked_to_stop() > limit:
            raise TooLateError(f"S3 did not take part within {limit:.0f} s after the job was asked to stop.")

    def _warn(self, name: CheckpointName, reason: str) -> None:
        logger.warning("checkpoint %s is in its folder, but its copy to S3 failed; the job goes on. %s", name, reason)

    def _check_writing(self) -> None:
        """Check early, not at the first checkpoint, that the job has permission to write."""
        key = self._location.prefix + _PROBE
        self._client.put_object(Bucket=self._location.bucket, Key=key, Body=b"")
        try:
            self._client.delete_object(Bucket=self._location.bucket, Key=key)
        except S3_FAILURES as error:
            logger.warning("old checkpoints will stay in S3. %s", explain(error, self._location))

    def _list(self) -> _Listing:
        """Return all checkpoints in S3 with their files: file name -> size in bytes."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._location.bucket, Prefix=f"{self._location.prefix}step-"
        )
        found: dict[str, dict[str, int]] = {}
        for page in pages:
            for item in page.get("Contents", ()):
                folder, slash, file = str(item["Key"]).removeprefix(self._location.prefix).partition("/")
                if slash and file and "/" not in file:
                    found.setdefault(folder, {})[file] = int(item["Size"])
        return {
            name: found[str(name)]
            for name in newest_first(found)
            if name.serial <= LAST_SERIAL or MANIFEST in found[str(name)]
        }

    def _upload(self, name: CheckpointName) -> None:
        folder = self._store.folder / str(name)
        manifest = read_manifest(folder, name)
        files = [*manifest.files, MANIFEST]
        for number, file in enumerate(files):
            try:
                self._client.upload_file(
                    str(folder / file),
                    self._location.bucket,
                    self._key(name, file),
                    Callback=self._refuse_when_late,
                    Config=self._transfer,
                )
            except TooLateError as error:
                raise TooLateError(f"{error} Not sent: {', '.join(files[number:])}") from error
        self._manifests[name] = manifest

    def _fetched(self, name: CheckpointName, sizes: Mapping[str, int]) -> bool:
        """Download a checkpoint if it is complete in S3; otherwise log the problem and return False."""
        folder = self._store.folder / str(name)
        try:
            manifest, content = self._read_manifest(name, sizes)
            if folder.is_dir():
                remove(folder)  # it was skipped as broken
            with whole_or_not_at_all(folder):
                self._download(folder, manifest)
                seal(folder, manifest.files, content)
        except UnusableError as error:
            self._pass_over(name, str(error))
            return False
        except S3_FAILURES as error:
            self._refuse_when_late()  # else an older one would be resumed, and its successor mistaken for the newest
            self._pass_over(name, str(explain(error, self._location)))
            return False
        except OSError as error:
            raise PlatformError(
                f"checkpoint {name} could not be brought from {self._location} to {folder.parent}: {error.strerror}. "
                "Give the job a larger volume."
            ) from error
        return True

    def _pass_over(self, name: CheckpointName, reason: str) -> None:
        self._passed_over += 1
        if self._passed_over <= _SHOWN:
            logger.warning("checkpoint %s in S3 is passed over: %s", name, reason)
        elif self._passed_over == _SHOWN + 1:
            logger.warning("further checkpoints in S3 are passed over without a line for each")

    def _read_manifest(self, name: CheckpointName, sizes: Mapping[str, int]) -> tuple[Manifest, bytes]:
        """Read a manifest and check that every file exists with its size.

        Raises:
            UnusableError: The checkpoint is incomplete.
        """
        if sizes.get(MANIFEST, MAX_MANIFEST_BYTES + 1) > MAX_MANIFEST_BYTES:
            raise UnusableError("no manifest", alien=MANIFEST in sizes)
        answer = self._client.get_object(Bucket=self._location.bucket, Key=self._key(name, MANIFEST))
        content: bytes = answer["Body"].read()
        manifest = parse_manifest(content, name)
        for file, entry in manifest.files.items():
            if sizes.get(file) != entry.size:
                raise UnusableError(f"{file} has {sizes.get(file, 'no')} bytes instead of {entry.size}")
        return manifest, content

    def _download(self, folder: Path, manifest: Manifest) -> None:
        for file in manifest.files:
            target = unfinished(folder, file)
            self._client.download_file(
                self._location.bucket,
                self._key(manifest.name, file),
                str(target),
                Callback=self._refuse_when_late,
                Config=self._transfer,
            )
        check_hashes({unfinished(folder, file): entry for file, entry in manifest.files.items()})

    def _remove_expired(self) -> None:
        listing = self._list()
        candidates = []
        for name, sizes in listing.items():
            manifest = self._known(name, sizes)
            if isinstance(manifest, Manifest):
                candidates.append(Candidate(name, complete=True, best=manifest.about.best, safe=True))
            elif not manifest.alien:
                candidates.append(Candidate(name, complete=False))
        for name in expired(candidates, self._store.keep):
            self._delete(name, listing[name])

    def _known(self, name: CheckpointName, sizes: Mapping[str, int]) -> Manifest | UnusableError:
        if name not in self._manifests:
            try:
                self._manifests[name], _ = self._read_manifest(name, sizes)
            except UnusableError as error:
                self._manifests[name] = error
        return self._manifests[name]

    def _delete(self, name: CheckpointName, files: Mapping[str, int]) -> None:
        for file in sorted(files, key=lambda file: file != MANIFEST):
            self._client.delete_object(Bucket=self._location.bucket, Key=self._key(name, file))
        logger.debug("checkpoint %s is superseded and was removed from S3", name)

    def _key(self, name: CheckpointName, file: str) -> str:
        return f"{self._location.prefix}{name}/{file}"
