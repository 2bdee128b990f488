"""Reads request bodies of limited size within a limited time."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request

SECONDS = 60.0
"""Time for a whole body: the platform's own limit for an invocation."""
SECONDS_WHEN_STOPPING = 3.0
_DISCARD_SECONDS = 10.0


class BodyError(Exception):
    """The body of a request cannot be used.

    Attributes:
        status: HTTP status of the response.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class BodyReader:
    """Reads request bodies, and limits the time of all reads once the server stops.

    Args:
        max_bytes: size of the largest accepted body.
    """

    def __init__(self, max_bytes: int, seconds: float = SECONDS) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._reads: set[asyncio.Timeout] = set()

    async def read(self, request: Request) -> bytes:
        """Read the body of a request.

        Raises:
            BodyError: the body is too large, compressed, slow or incomplete.
        """
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                self._reads.add(timeout)
                try:
                    return await self._read(request)
                finally:
                    self._reads.discard(timeout)
        except TimeoutError:
            raise BodyError(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time") from None
        except ClientDisconnect:
            raise BodyError(HTTPStatus.BAD_REQUEST, "the client disconnected before the end of the body") from None

    def stop(self) -> None:
        """Leave current and future reads only a few seconds."""
        self._seconds = SECONDS_WHEN_STOPPING
        latest = asyncio.get_running_loop().time() + SECONDS_WHEN_STOPPING
        for timeout in self._reads:
            if (when := timeout.when()) is None or when > latest:
                timeout.reschedule(latest)

    async def _read(self, request: Request) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            await discard(request)
            message = f"content encoding {encoding!r} is not supported; send the body uncompressed"
            raise BodyError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        declared = request.headers.get("content-length", "0")
        # The HTTP library has checked that it is a number.
        if int(declared) > self._max_bytes:
            await discard(request)
            raise self._too_large(declared)
        body = bytearray()
        async for chunk in request.stream():
            if len(body) + len(chunk) > self._max_bytes:
                body.clear()
                await discard(request)
                raise self._too_large("more")
            body += chunk
        return bytes(body)

    def _too_large(self, size: str) -> BodyError:
        message = (
            f"the body has {size} bytes, but at most {self._max_bytes} are allowed; send fewer records per request, or"
            " set MAX_CONTENT_LENGTH on the model"
        )
        return BodyError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


async def discard(request: Request) -> None:
    """Read the rest of a body without keeping it, since many clients read the response only after sending all of it.

    Clients that wait for permission (`Expect: 100-continue`) get the response at once.
    """
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
