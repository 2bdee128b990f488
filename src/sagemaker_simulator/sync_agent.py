"""The platform's agent that keeps the checkpoint folder and S3 in step, with everything that makes it awkward.

What is known: a file that is being uploaded has a `<file>.sagemaker-uploading` beside it, an uploaded one a
`<file>.sagemaker-uploaded`; names that end in `.sagemaker-ignore` are left alone (AWS's XGBoost container and smdebug
rely on all three, smdebug also on an ignored folder). Nothing is promised about the order of files, about several
files belonging together, or about a file that is still being written. An object appears in S3 whole. What is in S3
before the start is brought back into the folder; what others add later is not.

Where nothing is known, the agent does what is harder for the container: it takes a file as soon as it sees it, leaves
markers of deleted files behind, marks nothing as uploaded that it has brought back, and follows no symbolic link.
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
    """How the agent behaves.

    Attributes:
        seed: of the order of files and of the delays.
        scan_seconds: pause between two looks at the folder.
        delay_seconds: shortest and longest wait before each upload.
        bytes_per_second: speed of an upload; `None` for as fast as the disk.
        chunk_bytes: how much is read at once; between two reads the job may change the file.
        mirror_deletions: remove an object when its file goes. Reports differ here (the developer guide says that the
            platform does, others did not see it), so a container should be tested both ways.
    """

    seed: int = 0
    scan_seconds: float = 0.02
    delay_seconds: tuple[float, float] = (0.0, 0.0)
    bytes_per_second: float | None = None
    chunk_bytes: int = 1 << 16
    mirror_deletions: bool = False


def restore(remote: Path, local: Path) -> None:
    """Bring every object of the "S3" folder into the checkpoint folder, as before a start."""
    for path in remote.rglob("*"):
        if path.is_file():
            target = local / path.relative_to(remote)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def upload_order(names: list[str], seed: int, scan: int) -> list[str]:
    """In which order one look at the folder uploads what is new: a function of its arguments."""
    order = sorted(names)
    random.Random(f"{seed}/{scan}").shuffle(order)  # noqa: S311 - a schedule, not a secret
    return order


class SyncAgent:
    """Uploads from a thread until it is told to finish, or until the machine is gone."""

    def __init__(self, local: Path, remote: Path, options: SyncOptions) -> None:
        """Take what lies in `local` for known and start to watch it.

        Args:
            local: the checkpoint folder; it exists, and was just restored.
            remote: the folder that stands for the S3 prefix; created.
            options: how to behave.
        """
        self._local = local
        self._remote = remote
        self._options = options
        self._delays = random.Random(options.seed)  # noqa: S311 - a schedule, not a secret
        self._known: dict[str, Signature] = dict(self._scan())
        self._finishing = threading.Event()
        self._cut = threading.Event()
        remote.mkdir(parents=True, exist_ok=True)
        self._part = Path(tempfile.mkdtemp(prefix=f".{remote.name}-", dir=remote.parent)) / "part"
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sync-agent", daemon=True)
        self._thread.start()

    def finish(self, timeout: float | None = None) -> None:
        """Upload all that is new without further delay, then end; after `timeout` seconds the machine is gone.

        Raises:
            OSError: an upload failed, and not because the job took the file away.
        """
        self._finishing.set()
        self._thread.join(timeout)
        self.cut()
        if self._error is not None:
            raise self._error

    def cut(self) -> None:
        """End in the middle of whatever is being done: the machine is gone."""
        self._cut.set()
        self._finishing.set()
        self._thread.join()
        shutil.rmtree(self._part.parent, ignore_errors=True)

    def _run(self) -> None:
        try:
            self._upload_until_told()
        except OSError as error:
            self._error = error

    def _upload_until_told(self) -> None:
        scan = 0
        while not self._finishing.is_set():
            self._upload_what_is_new(scan)
            scan += 1
            self._finishing.wait(self._options.scan_seconds)
        self._upload_what_is_new(scan)

    def _upload_what_is_new(self, scan: int) -> None:
        present = self._scan()
        if self._options.mirror_deletions:
            for name in self._known.keys() - present.keys():
                if self._cut.is_set():
                    return
                del self._known[name]
                (self._remote / name).unlink(missing_ok=True)
        new = [name for name, signature in present.items() if self._known.get(name) != signature]
        for name in upload_order(new, self._options.seed, scan):
            self._finishing.wait(self._delays.uniform(*self._options.delay_seconds))
            if self._cut.is_set():
                return
            self._upload(name)

    def _scan(self) -> dict[str, Signature]:
        found = {}
        for folder, folders, files in os.walk(self._local):
            folders[:] = [name for name in folders if not name.endswith(IGNORED)]
            for name in files:
                path = Path(folder, name)
                if name.endswith((UPLOADING, UPLOADED, IGNORED)) or path.is_symlink() or not path.is_file():
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(self._local).as_posix()] = _signature(path.stat())
        return found

    def _upload(self, name: str) -> None:
        path = self._local / name
        uploading, uploaded = path.with_name(path.name + UPLOADING), path.with_name(path.name + UPLOADED)
        try:
            with path.open("rb", buffering=0) as file:
                signature = _signature(os.fstat(file.fileno()))
                uploading.touch()
                uploaded.unlink(missing_ok=True)
                if not self._copy(file, self._part):
                    return
            self._publish(name)
            self._known[name] = signature
            uploading.unlink(missing_ok=True)
            uploaded.touch()
        except (FileNotFoundError, NotADirectoryError):
            # The job removed or renamed the file, or its folder, while the agent was at it.
            with contextlib.suppress(OSError):
                uploading.unlink(missing_ok=True)

    def _copy(self, file: FileIO, part: Path) -> bool:
        """Copy piece by piece; whether the machine lived to the end of it."""
        with part.open("wb") as target:
            while chunk := file.read(self._options.chunk_bytes):
                target.write(chunk)
                if self._options.bytes_per_second is not None:
                    self._finishing.wait(len(chunk) / self._options.bytes_per_second)
                if self._cut.is_set():
                    return False
        return not self._cut.is_set()

    def _publish(self, name: str) -> None:
        target = self._remote / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._part.replace(target)


def _signature(status: os.stat_result) -> Signature:
    return (status.st_ino, status.st_size, status.st_mtime_ns)
