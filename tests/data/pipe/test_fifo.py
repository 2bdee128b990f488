"""FIFOs are awaited, read to their true end, closed early, and counted across restarts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.data.pipe.fifo import PIPE_BYTES, Pipe, PipeOptions
from finetune.errors import JobStopped, PlatformError


def options(folder: Path, timeout: float = 10.0, stopped: Callable[[], bool] = lambda: False) -> PipeOptions:
    return PipeOptions("train", folder, folder / "state", timeout, stopped)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def write(path: Path, content: bytes, *, delay: float = 0.0, pause: float = 0.0) -> threading.Thread:
    """Create a FIFO, optionally late, and write into it, optionally with a pause after the first byte."""

    def work() -> None:
        time.sleep(delay)
        os.mkfifo(path)
        time.sleep(delay)
        with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
            file.write(content[:1])
            time.sleep(pause)
            file.write(content[1:])

    return in_thread(work)


def test_pipe_returns_all_bytes(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    write(tmp_path / "train_0", content)
    assert b"".join(Pipe(options(tmp_path)).read_next()) == content


def test_late_or_slow_writer_does_not_end_the_epoch(tmp_path: Path) -> None:
    write(tmp_path / "train_0", b"late", delay=0.15, pause=0.2)
    assert b"".join(Pipe(options(tmp_path)).read_next()) == b"late"


def test_empty_pipe_ends_the_epoch(tmp_path: Path) -> None:
    write(tmp_path / "train_0", b"", delay=0.02)
    assert list(Pipe(options(tmp_path)).read_next()) == []


def test_pipe_number_is_stored_across_readers(tmp_path: Path) -> None:
    write(tmp_path / "train_0", b"zero")
    write(tmp_path / "train_1", b"one")
    assert b"".join(Pipe(options(tmp_path)).read_next()) == b"zero"
    assert b"".join(Pipe(options(tmp_path)).read_next()) == b"one"
    assert Pipe(options(tmp_path)).index == 2


def size_while_read(folder: Path, content: bytes) -> int:
    """Capacity of a pipe through which `content` arrives completely."""
    path, arrived, sizes = folder / "train_0", threading.Event(), list[int]()
    os.mkfifo(path)

    def work() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(content[:1])
            arrived.wait(10.0)
            sizes.append(fcntl.fcntl(file, fcntl.F_GETPIPE_SZ))
            file.write(content[1:])

    in_thread(work)
    chunks = Pipe(options(folder)).read_next()
    first = bytes(next(chunks))
    arrived.set()
    assert first + b"".join(chunks) == content
    return sizes[0]


def size_of_another(requested: int | None = None) -> int:
    """Capacity of a new pipe: the kernel's default, or as far as the kernel allows it to be enlarged."""
    ends = os.pipe()
    try:
        if requested is not None:
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, requested)
        return fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ)
    finally:
        for end in ends:
            os.close(end)


def test_pipe_capacity_is_enlarged_if_permitted(tmp_path: Path) -> None:
    assert size_while_read(tmp_path, os.urandom(3 << 20)) == size_of_another(PIPE_BYTES)


def test_pipe_is_read_if_enlarging_is_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, command: int, size: int) -> int:
        raise PermissionError(errno.EPERM, f"pipe {descriptor} cannot get {size} bytes by {command}")

    monkeypatch.setattr("finetune.data.pipe.fifo.fcntl", SimpleNamespace(**vars(fcntl) | {"fcntl": refuse}))
    assert size_while_read(tmp_path, os.urandom(3 << 20)) == size_of_another()


def test_writer_notices_early_close(tmp_path: Path) -> None:
    path, writer_failed = tmp_path / "train_0", threading.Event()
    os.mkfifo(path)

    def work() -> None:
        try:
            with path.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except BrokenPipeError:
            writer_failed.set()

    in_thread(work)
    with closing(Pipe(options(tmp_path)).read_next()) as chunks:
        assert next(chunks)
    assert writer_failed.wait(10.0)


@pytest.mark.parametrize("exists", [False, True])
def test_wait_times_out(tmp_path: Path, exists: bool) -> None:
    if exists:
        os.mkfifo(tmp_path / "train_0")
    with pytest.raises(PlatformError, match=r"channel 'train': .* \d+ s for .*train_0.*increase pipe_wait_seconds"):
        list(Pipe(options(tmp_path, timeout=0.1)).read_next())


@pytest.mark.parametrize("exists", [False, True])
def test_stop_request_ends_any_wait(tmp_path: Path, exists: bool) -> None:
    if exists:
        os.mkfifo(tmp_path / "train_0")
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(JobStopped):
        list(Pipe(options(tmp_path, stopped=stop.is_set)).read_next())


def test_end_of_file_after_stop_request_is_not_the_end_of_the_epoch(tmp_path: Path) -> None:
    stop = threading.Event()
    writer = write(tmp_path / "train_0", b"h")
    chunks = Pipe(options(tmp_path, stopped=stop.is_set)).read_next()
    assert next(chunks)
    writer.join()
    stop.set()
    with pytest.raises(JobStopped):
        list(chunks)


def test_unopened_pipe_is_not_counted(tmp_path: Path) -> None:
    with pytest.raises(PlatformError):
        list(Pipe(options(tmp_path, timeout=0.0)).read_next())
    assert Pipe(options(tmp_path)).index == 0


def test_path_that_is_not_a_fifo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_0").mkdir()
    with pytest.raises(PlatformError, match="train_0 is not a FIFO"):
        list(Pipe(options(tmp_path)).read_next())


def test_second_reader_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train_0", bytes(1 << 20), pause=0.3)
    with closing(Pipe(options(tmp_path)).read_next()) as chunks:
        next(chunks)
        with pytest.raises(PlatformError, match="read by another process"):
            next(Pipe(options(tmp_path)).read_next())
