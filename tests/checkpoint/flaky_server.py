"""An HTTP proxy that injects faults."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self

Fault = Literal["none", "unavailable", "denied", "silent", "cut off", "cut off half-way"]
Decision = Callable[[str, str], Fault]

_DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def no_fault(method: str, path: str) -> Fault:
    return "none"


@dataclass
class FlakyServer:
    """A proxy to `port` of this machine.

    Attributes:
        port: of the upstream server.
        decide: method, path -> the fault for this request.
        requests: method and path of every request, in order.
    """

    port: int
    decide: Decision = no_fault
    requests: list[tuple[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                proxy.respond(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = respond  # noqa: N815 - names of the base class

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class calls it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.requests.append((request.command, request.path))
        fault = self.decide(request.command, request.path)
        if fault == "silent":
            self.stopped.wait()
        if fault in {"silent", "cut off"}:
            request.close_connection = True
        elif fault == "unavailable":
            self._send(request, 503, [], b"")
        elif fault == "denied":
            self._send(request, 403, [("Content-Type", "application/xml")], _DENIED)
        else:
            self._pass_on(request, body, half=fault == "cut off half-way")

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes, *, half: bool) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.port)
        upstream.request(request.command, request.path, body, dict(request.headers.items()))
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        headers = [item for item in response.getheaders() if item[0].lower() not in {"connection", "transfer-encoding"}]
        if half:
            headers = [item for item in headers if item[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(content))))
            content = content[: len(content) // 2]
            request.close_connection = True
        self._send(request, response.status, headers, content)

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes
    ) -> None:
        request.send_response_only(status)
        for name, value in headers:
            request.send_header(name, value)
        if all(name.lower() != "content-length" for name, _ in headers):
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)
