"""Serves an artifact as AWS's inference images do: their toolkit's handler service over HTTP.

model_server.py MODEL_DIR LIBRARIES

AWS's own front end is a Java server that passes each request to this handler service in the same form: headers as the
request's properties, the body as bytes. LIBRARIES is the folder of torch and the like. The port is written to standard
output.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

CONTENT_TYPE = "Content-Type"


class Context:
    """The model server's context: the request's properties, and those of the response set by the handler."""

    def __init__(self, model_dir: str, headers: Mapping[str, str]) -> None:
        self.system_properties = {"model_dir": model_dir}
        self.request_processor = [self]
        self.status = 200
        self.content_type = "application/octet-stream"
        self._headers = dict(headers)

    def get_request_properties(self) -> dict[str, str]:
        return self._headers

    def set_response_content_type(self, index: int, content_type: str) -> None:
        self.content_type = content_type

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status = code


def front_of(service: Any, model_dir: str) -> type[BaseHTTPRequestHandler]:  # noqa: ANN401 - the toolkit is untyped
    """The HTTP side of a handler service."""

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/ping" else 404, "application/json", b'{"status": "Healthy"}\n')

        def do_POST(self) -> None:
            if self.path != "/invocations":
                self._answer(404, "text/plain", b"")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            context = Context(model_dir, dict(self.headers.items()))
            (response,) = service.handle([{"body": body}], context)
            content = response.encode() if isinstance(response, str) else bytes(response)
            self._answer(context.status, context.content_type, content)

        def _answer(self, status: int, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header(CONTENT_TYPE, content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
            return

    return Front


def main(model_dir: str, libraries: str) -> None:
    # Last, so that the toolkit's own versions are found first. Not a site folder, which would make the project
    # importable.
    sys.path.append(libraries)
    from sagemaker_inference.default_handler_service import DefaultHandlerService

    service = DefaultHandlerService()
    service.initialize(Context(model_dir, {}))
    server = HTTPServer(("127.0.0.1", 0), front_of(service, model_dir))
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
