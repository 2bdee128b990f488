"""Simulates the platform's agent that synchronizes the checkpoint folder with S3, including its difficult behavior.

Known behavior: a file being uploaded has a `<file>.sagemaker-uploading` next to it, an uploaded one a
`<file>.sagemaker-uploaded`; names ending in `.sagemaker-ignore` are skipped (AWS's XGBoost container and smdebug rely
on all three, smdebug also on an ignored folder). There are no guarantees about the order of files, about consistency
across files, or about a file still being written. An object appears in S3 atomically. Objects in S3 before the start
are restored to the folder; those added later by others are not.

Where the behavior is unknown, the agent chooses the more difficult one for the container: it uploads a file as soon as
it sees it, keeps the markers of deleted files, does not mark restored files as uploaded, and does not follow symbolic
links.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
import threading
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

UPLOADING = ".sagemaker-uploading"
UPLOADED = ".sagemaker-uploaded"
IGNORED = ".sagemaker-ignore"

Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """Behavior of the agent.

    Attributes:
        seed: Seed of the order of files and of the delays.
        scan_seconds: Pause between two scans of the folder.
        delay_seconds: Minimum and maximum delay before each upload.
        bytes_per_second: Upload rate; `None` for the speed of the disk.
        chunk_bytes: Bytes read at once; between two reads the job may change the file.
        mirror_deletions: Whether to delete the object of a deleted file. Reports differ (the developer guide says that
            the platform does, others did not observe it), so a container should be tested both ways.
    """

    seed: int = 0
    scan_seconds: float = 0.02
    delay_seconds: tuple[float, float] = (0.0, 0.0)
    bytes_per_second: float | None = None
    chunk_bytes: int = 1 << 16
    mirror_deletions: bool = False


def restore(remote: Path, local: Path) -> None:
    """Copy every object of the "S3" folder to the checkpoint folder, as before a start."""
    for path in remote.rglob("*"):
        if path.is_file():
            target = local / path.relative_to(remote)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def upload_order(names: list[str], seed: int, scan: int) -> list[str]:
    """Return the upload order of one scan's new files, as a pure function of the arguments."""
    order = sorted(names)
    random.Random(f"{seed}/{scan}").shuffle(order)  # noqa: S311 - a schedule, not a secret
    return order


class SyncAgent:
    """Uploads files in a thread until it is finished or the machine is lost."""

    def __init__(self, local: Path, remote: Path, options: SyncOptions) -> None:
        """Start to watch `local`, treating its current files as known.

        Args:
            local: The existing checkpoint folder, just restored.
            remote: Folder representing the S3 prefix; created if missing.
            options: Behavior of the agent.
        """
        self._local = local
        self._remote = remote
        self._options = options
        self._delays = random.Random(options.seed)  # noqa: S311 - a schedule, not a secret
        self._signatures: dict[str, Signature] = dict(self._scan())
        self._finishing = threading.Event()
        self._killed = threading.Event()
        remote.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=f".{remote.name}-", dir=remote.parent)) / "part"
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sync-agent", daemon=True)
        self._thread.start()

    def finish(self, timeout: float | None = None) -> None:
        """Upload all new files without delay, then end; after `timeout` seconds the machine is lost.

        Raises:
            OSError: An upload failed for a reason other than the job removing the file.
        """
        self._finishing.set()
        self._thread.join(timeout)
        self.kill()
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        """End immediately because the machine is lost."""
        self._killed.set()
        self._finishing.set()
        self._thread.join()
        shutil.rmtree(self._temporary.parent, ignore_errors=True)

    def _run(self) -> None:
        try:
            self._upload_until_finished()
        except OSError as error:
            self._error = error

    def _upload_until_finished(self) -> None:
        scan = 0
        while not self._finishing.is_set():
            self._upload_new_files(scan)
            scan += 1
            self._finishing.wait(self._options.scan_seconds)
        self._upload_new_files(scan)

    def _upload_new_files(self, scan: int) -> None:
        present = self._scan()
        if self._options.mirror_deletions:
            for name in self._signatures.keys() - present.keys():
                if self._killed.is_set():
                    return
                del self._signatures[name]
                (self._remote / name).unlink(missing_ok=True)
        new = [name for name, signature in present.items() if self._signatures.get(name) != signature]
        for name in upload_order(new, self._options.seed, scan):
            self._finishing.wait(self._delays.uniform(*self._options.delay_seconds))
            if self._killed.is_set():
                return
            self._upload(name)

    def _scan(self) -> dict[str, Signature]:
        signatures = {}
        for folder, folders, files in os.walk(self._local):
            folders[:] = [name for name in folders if not name.endswith(IGNORED)]
            for name in files:
                path = Path(folder, name)
                if name.endswith((UPLOADING, UPLOADED, IGNORED)) or path.is_symlink() or not path.is_file():
                    continue
                with contextlib.suppress(FileNotFoundError):
                    signatures[path.relative_to(self._local).as_posix()] = _signature(path.stat())
        return signatures

    def _upload(self, name: str) -> None:
        path = self._local / name
        uploading, uploaded = path.with_name(path.name + UPLOADING), path.with_name(path.name + UPLOADED)
        try:
            with path.open("rb", buffering=0) as file:
                signature = _signature(os.fstat(file.fileno()))
                uploading.touch()
                uploaded.unlink(missing_ok=True)
                if not self._copy(file, self._temporary):
                    return
            self._publish(name)
            self._signatures[name] = signature
            uploading.unlink(missing_ok=True)
            uploaded.touch()
        except (FileNotFoundError, NotADirectoryError):
            # The job removed or renamed the file or its folder during the upload.
            with contextlib.suppress(OSError):
                uploading.unlink(missing_ok=True)

    def _copy(self, file: FileIO, temporary: Path) -> bool:
        """Copy in chunks; return whether the copy was completed before the machine was lost."""
        with temporary.open("wb") as target:
            while chunk := file.read(self._options.chunk_bytes):
                target.write(chunk)
                if self._options.bytes_per_second is not None:
                    self._finishing.wait(len(chunk) / self._options.bytes_per_second)
                if self._killed.is_set():
                    return False
        return not self._killed.is_set()

    def _publish(self, name: str) -> None:
        target = self._remote / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(target)


def _signature(status: os.stat_result) -> Signature:
    return (status.st_ino, status.st_size, status.st_mtime_ns)
