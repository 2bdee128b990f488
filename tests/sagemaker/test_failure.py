"""Every failure gets the exit code of the party that can fix it, and a failure file that begins with the cause."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from finetune.errors import DataError, PlatformError, UserError
from finetune.sagemaker import failure as failure_module
from finetune.sagemaker.failure import (
    RESERVED_BYTES,
    SHOWN_CHARACTERS,
    Failure,
    failure_of,
    release_reserve,
    reserve_failure,
    write_failure,
)
from finetune.sagemaker.paths import Paths


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
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 2),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 2),
        (RuntimeError("can't start new thread"), 2),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2),
        (RuntimeError("shapes do not fit"), 3),
        (SystemExit(0), 3),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert failure_of(error).exit_code == code


def test_known_cause_has_no_traceback() -> None:
    assert failure_of(UserError("epochs is -1")) == Failure("epochs is -1", 1, expected=True)


def test_internal_error_has_cause_then_traceback() -> None:
    try:
        raise KeyError("x" * 5000)
    except KeyError as error:
        message = failure_of(error).message
    assert message.startswith("Internal error, KeyError")
    assert "bug of the image" in message[:SHOWN_CHARACTERS]
    assert "test_failure.py" in message


def test_first_cause_is_kept(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert write_failure(paths, Failure("first", 1, expected=True))
    assert write_failure(paths, Failure("second", 3, expected=True))
    assert paths.failure.read_text() == "first"


def test_write_failure_reports_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file where a folder should be")
    assert not write_failure(Paths(tmp_path), Failure("cause", 1, expected=True))


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("message", ["cause", "ä" * RESERVED_BYTES])
def test_cause_is_written_on_full_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    paths = Paths(tmp_path)
    reserve_failure(paths)
    monkeypatch.setattr(failure_module, "write_text_atomically", no_space)
    assert write_failure(paths, Failure(message, 2, expected=True))
    assert paths.failure.read_text("utf-8") == message[: RESERVED_BYTES // (2 if len(message) > 5 else 1)]
    assert list(paths.output.iterdir()) == [paths.failure]


def test_failure_file_is_never_empty(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.output.mkdir()
    paths.failure.touch()
    assert write_failure(paths, Failure("", 2, expected=True))
    assert paths.failure.read_text("utf-8")


def test_reserve_is_removed(tmp_path: Path) -> None:
    reserve_failure(Paths(tmp_path))
    assert Paths(tmp_path).failure_reserve.stat().st_size == RESERVED_BYTES
    release_reserve(Paths(tmp_path))
    assert not list(Paths(tmp_path).output.iterdir())


def test_full_volume_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(failure_module, "_FULL_BYTES", 2**62)
    message = failure_of(error, (tmp_path / "absent", tmp_path)).message
    assert message == (
        f"The machine failed the job: No space left on device ({tmp_path})."
        " Give the job a larger volume (volume_size of the estimator)."
    )


def test_out_of_memory_names_remedy() -> None:
    message = failure_of(RuntimeError("DefaultCPUAllocator: can't allocate memory")).message
    assert message.startswith("The machine ran out of memory (DefaultCPUAllocator: can't allocate memory)")
    assert message.endswith("use a smaller batch_size or a larger instance.")


@pytest.mark.parametrize("cause", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")])
def test_user_error_caused_by_memory_is_a_platform_error(cause: BaseException) -> None:
    error = UserError("the weights cannot be loaded")
    error.__cause__ = cause
    assert failure_of(error).exit_code == 2
    assert failure_of(UserError("class 'failed to map segment' is unknown")).exit_code == 1


def test_any_error_with_full_address_space_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("could not create a primitive")
    assert failure_of(error).exit_code == 3
    monkeypatch.setattr("resource.getrlimit", lambda _: (2**20, 2**20))
    assert failure_of(error).exit_code == 2
    assert "could not create a primitive" in failure_of(error).message
    assert failure_of(UserError("epochs is -1")).exit_code == 1
