"""Every failure gets the code of whoever can mend it, and a file that begins with the cause."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from finetune.contract.outcome import SHOWN_CHARACTERS, Failure, failure_of, write_failure
from finetune.contract.paths import Paths
from finetune.errors import DataError, PlatformError, UserError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("epochs is -1"), 1),
        (DataError("train/a.jpg is no image"), 1),
        (PlatformError("the disk is full"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/opt/ml/model"), 2),
        (OSError(errno.EROFS, "Read-only file system"), 2),
        (MemoryError(), 2),
        (OSError("an error without a number"), 3),
        (ZeroDivisionError("division by zero"), 3),
        (SystemExit(0), 3),
    ],
)
def test_exit_codes_tell_who_can_mend_it(error: BaseException, code: int) -> None:
    assert failure_of(error).exit_code == code


def test_known_causes_come_without_traceback() -> None:
    assert failure_of(UserError("epochs is -1")) == Failure("epochs is -1", 1, expected=True)


def test_a_bug_shows_its_cause_within_what_the_platform_shows_and_then_its_traceback() -> None:
    try:
        raise KeyError("x" * 5000)
    except KeyError as error:
        message = failure_of(error).message
    assert message.startswith("Internal error, KeyError")
    assert "bug of the image" in message[:SHOWN_CHARACTERS]
    assert "test_outcome.py" in message


def test_the_first_cause_stays(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert write_failure(paths, Failure("first", 1, expected=True))
    assert write_failure(paths, Failure("second", 3, expected=True))
    assert paths.failure.read_text() == "first"


def test_a_folder_that_cannot_be_written_is_reported_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file where a folder should be")
    assert not write_failure(Paths(tmp_path), Failure("cause", 1, expected=True))
