"""Generates requests that a server must refuse, from a seed."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

IMAGE_TYPES = ("image/png", "image/jpeg", "application/x-image", "image/webp", "image/tiff")
TEXT_TYPES = ("application/json", "application/jsonlines", "text/csv", "text/plain", "text/tab-separated-values")


@dataclass(frozen=True)
class MalformedRequest:
    """A request and its kind, for messages."""

    kind: str
    body: bytes
    headers: dict[str, str]
    method: str = "POST"
    path: str = "/invocations"


def malformed_requests(images: Sequence[bytes], count: int, seed: int) -> list[MalformedRequest]:
    """Requests of all kinds in turn, each different."""
    rng = random.Random(seed)
    return [KINDS[index % len(KINDS)](rng, rng.choice(images)) for index in range(count)]


def truncated_image(rng: random.Random, image: bytes) -> MalformedRequest:
    body = image[: rng.randrange(1, len(image) // 2)]
    return MalformedRequest("truncated image", body, {"Content-Type": rng.choice(IMAGE_TYPES)})


def huge_image(rng: random.Random, image: bytes) -> MalformedRequest:
    """The header of a PNG that claims up to 2**31 pixels per side."""
    side = rng.randrange(2**17, 2**31)
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + image[33:]
    return MalformedRequest("huge image", body, {"Content-Type": "image/png"})


def random_bytes(rng: random.Random, image: bytes) -> MalformedRequest:
    body = rng.randbytes(rng.randrange(1, 5000))
    return MalformedRequest("random bytes", body, {"Content-Type": rng.choice(IMAGE_TYPES + TEXT_TYPES)})


def wrong_type(rng: random.Random, image: bytes) -> MalformedRequest:
    name = rng.choice(("application/x-npy", "application/x", "x", "", "/", "video/*", ";;", "text/html"))
    return MalformedRequest("wrong type", image, {"Content-Type": name})


def deep_json(rng: random.Random, image: bytes) -> MalformedRequest:
    opening = rng.choice((b"[", b'{"inputs":', b'[{"text":'))
    return MalformedRequest(
        "deep JSON", opening * rng.randrange(1000, 100_000), {"Content-Type": rng.choice(TEXT_TYPES[:2])}
    )


def wrong_json(rng: random.Random, image: bytes) -> MalformedRequest:
    encoded = base64.b64encode(image).decode()
    values: list[object] = [
        None, 1, 1e300, {"inputs": None}, {"inputs": [[encoded]]}, {"inputs": {"image": encoded}}, [encoded, 3],
        {"inputs": encoded, "parameters": {"temperature": 1}}, [encoded[:40]], ["\ud800"], {"text": 1}, [{}], True, "?",
    ]  # fmt: skip
    return MalformedRequest("wrong JSON", json.dumps(rng.choice(values)).encode(), {"Content-Type": "application/json"})


def text_for_images(rng: random.Random, image: bytes) -> MalformedRequest:
    return MalformedRequest("text", b"a text\nanother\n", {"Content-Type": rng.choice(TEXT_TYPES[2:])})


def wrong_encoding(rng: random.Random, image: bytes) -> MalformedRequest:
    charset = rng.choice(("utf-8", "klingon", "hex", "utf-7", "ascii", "idna", "\xfe"))
    return MalformedRequest("wrong encoding", b"\xff\xfe\xfd", {"Content-Type": f"text/plain; charset={charset}"})


def wrong_accept(rng: random.Random, image: bytes) -> MalformedRequest:
    accept = rng.choice(("image/png", ",", ";", "application/xml", "x" * 5000))
    return MalformedRequest("wrong accept", image, {"Content-Type": "image/png", "Accept": accept})


def wrong_path(rng: random.Random, image: bytes) -> MalformedRequest:
    path = rng.choice(("/", "/invocations/x", "/models", "/%00", "/..%2f..%2fetc/passwd", "/ping/"))
    return MalformedRequest("wrong path", image, {"Content-Type": "image/png"}, path=path)


def wrong_method(rng: random.Random, image: bytes) -> MalformedRequest:
    method = rng.choice(("PUT", "DELETE", "GET", "PATCH", "BREW"))
    return MalformedRequest("wrong method", b"", {}, method)


def empty_body(rng: random.Random, image: bytes) -> MalformedRequest:
    body = rng.choice((b"", b" ", b"\r\n\r\n"))
    return MalformedRequest("empty body", body, {"Content-Type": rng.choice(IMAGE_TYPES + TEXT_TYPES)})


def large_body(rng: random.Random, image: bytes) -> MalformedRequest:
    return MalformedRequest("large body", bytes(6 * 2**20 + rng.randrange(1, 2**20)), {"Content-Type": "image/png"})


def huge_header(rng: random.Random, image: bytes) -> MalformedRequest:
    size = rng.randrange(300_000, 1_000_000)
    return MalformedRequest("huge header", image, {"Content-Type": "image/png", "X-Padding": "x" * size})


KINDS: Sequence[Callable[[random.Random, bytes], MalformedRequest]] = (
    truncated_image, huge_image, random_bytes, wrong_type, deep_json, wrong_json, text_for_images, wrong_encoding,
    wrong_accept, wrong_path, wrong_method, empty_body, large_body, huge_header,
)  # fmt: skip

BROKEN_HTTP = (
    b"\r\n\r\n\r\n",
    b"GARBAGE\r\n\r\n",
    b"POST /invocations HTTP/9.9\r\nHost: x\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nHea der: x\r\n\r\n",
    b"POST /invoc\x00ations HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
)
"""Bytes that are not HTTP, or not a request that the server knows."""
