"""How a job ends: the failure file, whose beginning the platform shows, and the exit code."""

from __future__ import annotations

import errno
import traceback
from contextlib import suppress
from dataclasses import dataclass

from finetune.contract.paths import Paths
from finetune.errors import INTERNAL_EXIT_CODE, JobError, PlatformError

SHOWN_CHARACTERS = 1024
_MACHINE_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES}
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended a job.

    Attributes:
        message: the cause first, within what the platform shows; details may follow.
        exit_code: by who can mend it (see `finetune.errors`).
        expected: whether the cause is known; otherwise the message ends with a traceback.
    """

    message: str
    exit_code: int
    expected: bool


def failure_of(error: BaseException) -> Failure:
    """Sort an exception by who can mend it, and put its cause into the first line."""
    if isinstance(error, JobError):
        return Failure(str(error), error.exit_code, expected=True)
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
        place = f" ({error.filename})" if error.filename else ""
        return Failure(f"The machine failed the job: {error.strerror}{place}.", PlatformError.exit_code, expected=True)
    if isinstance(error, MemoryError):
        cause = "The machine ran out of memory: use a smaller batch_size or a larger instance."
        return Failure(cause, PlatformError.exit_code, expected=True)
    details = "".join(traceback.format_exception(error))
    cause = f"Internal error, {type(error).__name__}: {error}"[: SHOWN_CHARACTERS // 2]
    return Failure(f"{cause}\nThis is a bug of the image, not of the request.\n{details}", INTERNAL_EXIT_CODE, False)


def write_failure(paths: Paths, failure: Failure) -> bool:
    """Write `output/failure` unless an earlier cause stands there; return whether a cause stands there now."""
    try:
        paths.output.mkdir(parents=True, exist_ok=True)
        if not paths.failure.is_file():
            paths.failure.write_text(failure.message, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return False
    return True


def clear_failure(paths: Paths) -> None:
    """Remove the cause that an earlier job left in the same folder, where it can be removed."""
    with suppress(OSError):
        paths.failure.unlink(missing_ok=True)
