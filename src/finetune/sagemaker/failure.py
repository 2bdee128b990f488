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
from finetune.runtime.atomic_files import write_whole
from finetune.sagemaker.paths import Paths

SHOWN_CHARACTERS = 1024
RESERVED_BYTES = 16 * 1024
"""Disk space reserved for the failure file at the start of the job, in case the volume is full later."""
_FULL_BYTES = 1024 * 1024
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_LONGEST = 1 << 16
_NEARLY_ALL = 0.9
_LESS_MEMORY = "use a smaller batch_size or a larger instance."
# Out-of-memory messages of Python, the dynamic loader, glibc, C++ and PyTorch's allocator.
_NO_MEMORY = (
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
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]}\n...\n{message[-_LONGEST // 2 :]}"
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
    short_of_memory = next((one for one in _chain(error) if _says_no_memory(one)), None)
    if short_of_memory is not None:
        said = str(short_of_memory).partition("\n")[0].strip()[:200]
        cause = f"The machine ran out of memory{f' ({said})' if said else ''}: {_LESS_MEMORY}"
        return Failure(one_line(cause), PlatformError.exit_code, expected=True)
    if isinstance(error, JobError):
        message = next(iter(error.args), "")
        return Failure(message if isinstance(message, Lines) else one_line(str(error)), error.exit_code, expected=True)
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
        cause = cause_of(error)
        advice = ""
        if error.errno in _FULL_ERRNOS:
            full = [] if error.filename else _full_folders(folders)
            cause += f" ({', '.join(full)})" if full else ""
            advice = " Give the job a larger volume (volume_size of the estimator)."
        return Failure(f"The machine failed the job: {cause}.{advice}", PlatformError.exit_code, expected=True)
    if _fills_its_address_space():
        cause = f"The machine ran out of memory ({type(error).__name__}: {error})"
        cause = f"{one_line(cause[: SHOWN_CHARACTERS // 2])}: {_LESS_MEMORY}"
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
    return any(words in message for words in _NO_MEMORY)


def _says_no_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (not isinstance(error, JobError) and is_about_memory(str(error)))


def _fills_its_address_space() -> bool:
    """Whether the process uses more than 90% of its address space limit.

    Libraries then fail with errors that do not mention memory.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return False
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * resource.getpagesize() > _NEARLY_ALL * limit
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, followed by those it was raised from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def write_failure(paths: Paths, failure: Failure) -> bool:
    """Write `output/failure` unless it already contains a cause; return whether it contains one now."""
    try:
        paths.output.mkdir(parents=True, exist_ok=True)
        if not _holds_a_cause(paths.failure):
            _write_cause(paths, failure.message or "The job failed without a message.")
    except OSError:
        return False
    finally:
        release_reserve(paths)
    return True


def _holds_a_cause(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _write_cause(paths: Paths, message: str) -> None:
    try:
        write_whole(paths.failure, message)
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
