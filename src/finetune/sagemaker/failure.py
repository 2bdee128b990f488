"""Failures of a job: classification, exit code, and the failure file, whose start the platform shows."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import INTERNAL_EXIT_CODE, JobError, PlatformError
from finetune.messages import Lines, one_line, several_lines
from finetune.runtime.atomic_files import write_text_atomically
from finetune.sagemaker.paths import Paths

SHOWN_CHARACTERS = 1024
RESERVED_BYTES = 16 * 1024
"""Disk space reserved for the failure file at the start of the job, in case the volume is full later."""
_FULL_BYTES = 1024 * 1024
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_MAX_MESSAGE_LENGTH = 1 << 16
_FULL_SHARE = 0.9
_MEMORY_REMEDY = "use a smaller batch_size or a larger instance."
# Out-of-memory messages of Python, the dynamic loader, glibc, C++ and PyTorch's allocator.
_OUT_OF_MEMORY_TEXTS = (
    "Cannot allocate memory",
    "cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "cannot map zero-fill pages",
    "not enough memory",
    "bad_alloc",
    "can't start new thread",
    "\nMemoryError",
)
_MACHINE_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES}
)


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure that ended a job.

    Attributes:
        message: the cause first, within the length that the platform shows; details may follow.
        exit_code: depends on who has to fix the failure (see `finetune.errors`).
        expected: whether the cause is known; otherwise the message ends with a traceback.
    """

    message: str
    exit_code: int
    expected: bool

    def __post_init__(self) -> None:
        """Escape user data in the message, and limit its length."""
        message = several_lines(self.message)
        if len(message) > _MAX_MESSAGE_LENGTH:
            message = f"{message[: _MAX_MESSAGE_LENGTH // 2]}\n...\n{message[-_MAX_MESSAGE_LENGTH // 2 :]}"
        object.__setattr__(self, "message", message)


def cause_of(error: BaseException) -> str:
    """The cause of an exception in one line, with the type of an unexpected one."""
    if isinstance(error, JobError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f" ({error.filename})" if error.filename else "")
    else:
        text = f"{type(error).__name__}: {error}"
    return next(iter(text.splitlines()), "")


def failure_of(error: BaseException, folders: Iterable[Path] = ()) -> Failure:
    """Classify an exception by who has to fix it, and put its cause into the first line.

    Args:
        error: the exception that ended the job.
        folders: output folders of the job; those on full volumes are named if the exception names no file.
    """
    memory_error = next((cause for cause in causes_of(error) if _is_out_of_memory(cause)), None)
    if memory_error is not None:
        detail = str(memory_error).partition("\n")[0].strip()[:200]
        cause = f"The machine ran out of memory{f' ({detail})' if detail else ''}: {_MEMORY_REMEDY}"
        return Failure(one_line(cause), PlatformError.exit_code, expected=True)
    if isinstance(error, JobError):
        message = next(iter(error.args), "")
        return Failure(message if isinstance(message, Lines) else one_line(str(error)), error.exit_code, expected=True)
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
        cause = cause_of(error)
        remedy = ""
        if error.errno in _FULL_ERRNOS:
            full = [] if error.filename else _full_folders(folders)
            cause += f" ({', '.join(full)})" if full else ""
            remedy = " Give the job a larger volume (volume_size of the estimator)."
        return Failure(f"The machine failed the job: {cause}.{remedy}", PlatformError.exit_code, expected=True)
    if _address_space_is_full():
        cause = f"The machine ran out of memory ({type(error).__name__}: {error})"
        cause = f"{one_line(cause[: SHOWN_CHARACTERS // 2])}: {_MEMORY_REMEDY}"
        return Failure(cause, PlatformError.exit_code, expected=True)
    details = "".join(traceback.format_exception(error))
    cause = one_line(f"Internal error, {type(error).__name__}: {error}"[: SHOWN_CHARACTERS // 2])
    return Failure(f"{cause}\nThis is a bug of the image, not of the request.\n{details}", INTERNAL_EXIT_CODE, False)


def reserve_failure(paths: Paths) -> None:
    """Reserve space for the failure file, so that `write_failure` works on a full volume."""
    with suppress(OSError):
        paths.output.mkdir(parents=True, exist_ok=True)
        # Random bytes, since some file systems do not allocate blocks of zeros.
        paths.failure_reserve.write_bytes(os.urandom(RESERVED_BYTES))


def release_reserve(paths: Paths) -> None:
    """Remove the file of `reserve_failure`, if possible."""
    with suppress(OSError):
        paths.failure_reserve.unlink(missing_ok=True)


def is_about_memory(message: str) -> bool:
    """Whether the message of an unexpected error means that the machine ran out of memory."""
    return any(words in message for words in _OUT_OF_MEMORY_TEXTS)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (not isinstance(error, JobError) and is_about_memory(str(error)))


def _address_space_is_full() -> bool:
    """Whether the process uses more than 90% of its address space limit.

    Libraries then fail with errors that do not mention memory.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return False
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * resource.getpagesize() > _FULL_SHARE * limit
    return False


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error, followed by those it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def write_failure(paths: Paths, failure: Failure) -> bool:
    """Write `output/failure` unless it already contains a cause; return whether it contains one now."""
    try:
        paths.output.mkdir(parents=True, exist_ok=True)
        if not _has_cause(paths.failure):
            _write_cause(paths, failure.message or "The job failed without a message.")
    except OSError:
        return False
    finally:
        release_reserve(paths)
    return True


def _has_cause(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _write_cause(paths: Paths, message: str) -> None:
    try:
        write_text_atomically(paths.failure, message)
    except OSError:
        # The volume is full: overwrite the reserved blocks with as much of the message as fits.
        content = message.encode("utf-8", errors="backslashreplace")[:RESERVED_BYTES]
        with paths.failure_reserve.open("r+b") as file:
            file.write(content.decode("utf-8", errors="ignore").encode())
            file.truncate()
        paths.failure_reserve.replace(paths.failure)


def _full_folders(folders: Iterable[Path]) -> list[str]:
    """The folders on full volumes."""
    full = []
    for folder in folders:
        with suppress(OSError):
            if shutil.disk_usage(folder).free < _FULL_BYTES:
                full.append(str(folder))
    return full


def clear_failure(paths: Paths) -> None:
    """Remove the failure file of an earlier job in the same folder, if possible."""
    with suppress(OSError):
        paths.failure.unlink(missing_ok=True)
