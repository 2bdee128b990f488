"""A connection between two hosts, which sends and counts heartbeats."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from finetune.sagemaker.host_group.messages import LINE_LIMIT, Message, MessageError, decode

_HEARTBEAT = Message("heartbeat")


class Connection:
    """Sends and receives messages; not thread-safe, used in the event loop of the group.

    Attributes:
        address: address of the first host as seen by the other one.
        peer: address of the other end, for the log.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, accepted: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._unanswered = 0
        own, peer = (str(writer.get_extra_info(name, ("",))[0]) for name in ("sockname", "peername"))
        self.address = own if accepted else peer
        self.peer = peer

    async def receive(self) -> Message | None:
        """The next message, or `None` if the connection has closed.

        Raises:
            MessageError: a line is not a message, or too long.
        """
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, OSError):
            return None
        except asyncio.LimitOverrunError as error:
            raise MessageError(f"more than {LINE_LIMIT} bytes without a line end") from error
        self._unanswered = 0
        return decode(line)

    def send(self, message: Message) -> None:
        """Send a message without waiting; errors show when receiving."""
        if not self._writer.is_closing():
            self._writer.write(message.encode())

    async def send_heartbeats(self, every: float, lost_after: float) -> None:
        """Send heartbeats until the other end has been silent for too long, then return.

        Silence is counted in heartbeats sent: if this process was suspended, the time is not counted as silence of the
        other.

        Args:
            every: seconds between heartbeats.
            lost_after: seconds without any message after which the other end counts as lost.
        """
        while self._unanswered * every < lost_after:
            self.send(_HEARTBEAT)
            await asyncio.sleep(every)
            self._unanswered += 1

    async def flush(self, timeout: float) -> None:
        """Wait until everything is sent, at most `timeout` seconds."""
        self._writer.transport.set_write_buffer_limits(high=0)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout):
                await self._writer.drain()

    def close(self) -> None:
        """Close the connection; what was sent before is still delivered."""
        self._writer.close()

    def keep_open(self) -> None:
        """Keep the connection open until this process ends, even after `close`: its end then shows that of the process.

        The duplicate of the socket is not inherited by programs that this process starts.
        """
        with suppress(OSError, ValueError):
            os.dup(self._writer.get_extra_info("socket").fileno())
