"""Reads the FIFOs of a Pipe mode channel, one for each pass over its data.

The platform creates `<channel>_0`, `<channel>_1` and so on, possibly each one only after the previous one was read or
closed. Until a writer has opened the FIFO, a read looks like end of file: only `poll` distinguishes "no writer yet"
from "end of data".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import select
import stat
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import JobStopped, PlatformError

_log = logging.getLogger(__name__)

PIPE_BYTES = 1 << 20
"""Requested pipe capacity. The kernel's default of 64 KiB costs up to four fifths of the throughput."""

_BUFFER_BYTES = 1 << 19
"""Bytes per read buffer: two of them fit into a core's cache."""

_MIN_BUFFER_BYTES = 1 << 16


_POLL_SECONDS = 0.05
_LOG_INTERVAL_SECONDS = 30.0


def enlarge_pipe(descriptor: int) -> None:
    """Request a capacity of `PIPE_BYTES` for a pipe, where the system supports it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


@dataclass(frozen=True, slots=True)
class PipeOptions:
    """Location of the FIFOs of a channel, and how long to wait for them.

    Attributes:
        channel: channel name, as in `inputdataconfig.json`.
        folder: folder that holds the FIFOs.
        state: folder in this container that stores the number of the next FIFO across processes.
        timeout: timeout in seconds without progress.
        stopped: returns whether to stop; polled while waiting.
        read_timeout: timeout in seconds after the first bytes have arrived; defaults to `timeout`.
    """

    channel: str
    folder: Path
    state: Path
    timeout: float = 600.0
    stopped: Callable[[], bool] = lambda: False
    read_timeout: float | None = None


class Pipe:
    """The FIFOs of one channel, in sequence. Must be read by exactly one thread of one process."""

    def __init__(self, options: PipeOptions) -> None:
        """Read the number of the next FIFO; opens nothing."""
        self._options = options
        self._number_file = options.state / f"{options.channel}.next"
        self.index = self._load_number()

    @property
    def path(self) -> Path:
        """Path of the next FIFO."""
        return self._options.folder / f"{self._options.channel}_{self.index}"

    def read_next(self) -> Generator[memoryview, None, None]:
        """Yield the bytes of the next FIFO in chunks until its writer closes it; closing the generator closes it early.

        Chunks are contiguous in memory as far as the buffer allows, and no memory is reused. The FIFO counts as read
        once it is open.

        Raises:
            JobStopped: the job was stopped while waiting.
            PlatformError: the wait timed out, the path is not a FIFO, or another process reads the channel.
        """
        with self._exclusive_lock():
            descriptor = self._open()
            try:
                self.index += 1
                self._number_file.write_text(str(self.index), encoding="ascii")
                yield from read_chunks(descriptor, self._options, f"{self._options.channel}_{self.index - 1}")
            finally:
                os.close(descriptor)

    def _open(self) -> int:
        wait = WaitTimer(self._options, f"the pipe {self.path} to be created")
        while True:
            try:
                mode = self.path.stat().st_mode
            except FileNotFoundError:
                wait.check()
                time.sleep(_POLL_SECONDS)
                continue
            if not stat.S_ISFIFO(mode):
                raise PlatformError(f"channel {self._options.channel!r} uses Pipe mode, but {self.path} is not a FIFO.")
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            enlarge_pipe(descriptor)
            return descriptor

    def _load_number(self) -> int:
        try:
            return int(self._number_file.read_text(encoding="ascii") or "0")
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise PlatformError(
                f"{self._number_file} does not contain the number of the next pipe: {error}."
            ) from error

    @contextlib.contextmanager
    def _exclusive_lock(self) -> Generator[None, None, None]:
        """Hold an exclusive lock: with two readers, each would get only fragments of the stream."""
        self._number_file.parent.mkdir(parents=True, exist_ok=True)
        with self._number_file.open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise PlatformError(f"channel {self._options.channel!r} is already read by another process.") from error
            yield


def read_chunks(descriptor: int, options: PipeOptions, name: str) -> Generator[memoryview, None, None]:
    """Yield the bytes of a FIFO in chunks until its writer closes it; see `Pipe.read_next`.

    Args:
        descriptor: the FIFO, opened for reading without blocking, possibly before its writer.
        options: how long to wait.
        name: name of the FIFO for messages.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    wait = WaitTimer(options, f"a writer to open the pipe {name}")
    buffer = memoryview(b"")
    while True:
        if not poll.poll(_POLL_SECONDS * 1000):
            wait.check()
            continue
        if len(buffer) < _MIN_BUFFER_BYTES:
            # Not a bytearray, which would be zero-filled first.
            buffer = np.empty(_BUFFER_BYTES, np.uint8).data
        try:
            count = os.readv(descriptor, (buffer,))
        except BlockingIOError:
            continue
        # Also at end of file: the writer may be stopped together with the job, and then the epoch is incomplete.
        if options.stopped():
            raise JobStopped
        if not count:
            return
        chunk, buffer = buffer[:count], buffer[count:]
        yield chunk
        wait = WaitTimer(options, f"more data from the pipe {name}", options.read_timeout)


class WaitTimer:
    """Tracks the time without progress: logs it periodically and raises after a timeout."""

    def __init__(self, options: PipeOptions, event: str, timeout: float | None = None) -> None:
        """Start the timer; `timeout` defaults to that of `options`."""
        self._timeout = options.timeout if timeout is None else timeout
        self._options = options
        self._event = event
        self._start = time.monotonic()
        self._last_log = self._start

    def check(self) -> None:
        """Raise `JobStopped` if the job was stopped, or `PlatformError` on timeout."""
        if self._options.stopped():
            raise JobStopped
        now = time.monotonic()
        waited = now - self._start
        if waited > self._timeout:
            raise PlatformError(
                f"channel {self._options.channel!r}: timed out after waiting {waited:.0f} s for {self._event}; if"
                " the data source is slow, increase pipe_wait_seconds."
            )
        if now - self._last_log >= _LOG_INTERVAL_SECONDS:
            self._last_log = now
            _log.info("channel %r: has waited %.0f s for %s", self._options.channel, waited, self._event)
