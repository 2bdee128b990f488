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

_ROOM = 1 << 19
"""Bytes per read buffer: two of them fit into a core's cache."""

_LEAST_ROOM = 1 << 16


_SLICE_SECONDS = 0.05
_TELL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class PipeOptions:
    """Location of the FIFOs of a channel, and how long to wait for them.

    Attributes:
        channel: channel name, as in `inputdataconfig.json`.
        folder: folder that holds the FIFOs.
        state: folder in this container that stores the number of the next FIFO across processes.
        patience: timeout in seconds without progress.
        stopped: returns whether to stop; polled while waiting.
        silence: timeout in seconds after the first bytes have arrived; defaults to `patience`.
    """

    channel: str
    folder: Path
    state: Path
    patience: float = 600.0
    stopped: Callable[[], bool] = lambda: False
    silence: float | None = None


class Pipe:
    """The FIFOs of one channel, in sequence. Must be read by exactly one thread of one process."""

    def __init__(self, place: PipeOptions) -> None:
        """Read the number of the next FIFO; opens nothing."""
        self._place = place
        self._number = place.state / f"{place.channel}.next"
        self.index = self._read_number()

    @property
    def path(self) -> Path:
        """Path of the next FIFO."""
        return self._place.folder / f"{self._place.channel}_{self.index}"

    def read_next(self) -> Generator[memoryview, None, None]:
        """Yield the bytes of the next FIFO in chunks until its writer closes it; closing the generator closes it early.

        Chunks are contiguous in memory as far as the buffer allows, and no memory is reused. The FIFO counts as read
        once it is open.

        Raises:
            JobStopped: the job was stopped while waiting.
            PlatformError: the wait timed out, the path is not a FIFO, or another process reads the channel.
        """
        with self._alone():
            descriptor = self._open()
            try:
                self.index += 1
                self._number.write_text(str(self.index), encoding="ascii")
                yield from self._chunks(descriptor, self.index - 1)
            finally:
                os.close(descriptor)

    def _open(self) -> int:
        waiting = Waiting(self._place, f"the pipe {self.path} to be made")
        while True:
            try:
                mode = self.path.stat().st_mode
            except FileNotFoundError:
                waiting.look()
                time.sleep(_SLICE_SECONDS)
                continue
            if not stat.S_ISFIFO(mode):
                raise PlatformError(f"channel {self._place.channel!r} comes in Pipe mode, but {self.path} is no pipe.")
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            return descriptor

    def _chunks(self, descriptor: int, index: int) -> Generator[memoryview, None, None]:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        where = f"{self._place.channel}_{index}"
        waiting = Waiting(self._place, f"somebody to write into the pipe {where}")
        room = memoryview(b"")
        while True:
            if not poll.poll(_SLICE_SECONDS * 1000):
                waiting.look()
                continue
            if len(room) < _LEAST_ROOM:
                # Not a bytearray, which would be zero-filled first.
                room = np.empty(_ROOM, np.uint8).data
            try:
                count = os.readv(descriptor, (room,))
            except BlockingIOError:
                continue
            # Also at end of file: the writer may be stopped together with the job, and then the epoch is incomplete.
            if self._place.stopped():
                raise JobStopped
            if not count:
                return
            chunk, room = room[:count], room[count:]
            yield chunk
            waiting = Waiting(self._place, f"more data in the pipe {where}", self._place.silence)

    def _read_number(self) -> int:
        try:
            return int(self._number.read_text(encoding="ascii") or "0")
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise PlatformError(f"{self._number} does not hold the number of the next pipe: {error}.") from error

    @contextlib.contextmanager
    def _alone(self) -> Generator[None, None, None]:
        """Hold an exclusive lock: with two readers, each would get only fragments of the stream."""
        self._number.parent.mkdir(parents=True, exist_ok=True)
        with self._number.open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise PlatformError(f"channel {self._place.channel!r} is read by another process already.") from error
            yield


class Waiting:
    """Tracks the time without progress: logs it periodically and raises after a timeout."""

    def __init__(self, place: PipeOptions, what: str, patience: float | None = None) -> None:
        """Start the timer; `patience` defaults to that of `place`."""
        self._patience = place.patience if patience is None else patience
        self._place = place
        self._what = what
        self._since = time.monotonic()
        self._told = self._since

    def look(self) -> None:
        """Raise `JobStopped` if the job was stopped, or `PlatformError` on timeout."""
        if self._place.stopped():
            raise JobStopped
        now = time.monotonic()
        waited = now - self._since
        if waited > self._patience:
            raise PlatformError(
                f"channel {self._place.channel!r}: waited {waited:.0f} s for {self._what}, in vain; if the data are"
                " slow to come, raise pipe_wait_seconds."
            )
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            _log.info("channel %r: waiting for %s, for %.0f s now", self._place.channel, self._what, waited)
