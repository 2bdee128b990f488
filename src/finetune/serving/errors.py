"""Error responses: JSON with the HTTP status, its name and the cause, in the form of AWS's model server."""

from __future__ import annotations

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from finetune.messages import one_line

RETRY_AFTER_SECONDS = 1
_MAX_CAUSE_LENGTH = 2000

logger = logging.getLogger(__name__)


def error_response(status: int, cause: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the response for an error, with the cause as its message."""
    cause = one_line(cause[:_MAX_CAUSE_LENGTH])
    content = {"code": status, "type": HTTPStatus(status).phrase, "message": cause}
    return JSONResponse(content, status, headers)


def busy_response(cause: str) -> JSONResponse:
    """Return the response for a request that may succeed later."""
    return error_response(HTTPStatus.SERVICE_UNAVAILABLE, cause, {"Retry-After": str(RETRY_AFTER_SECONDS)})


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """Respond to an exception of starlette, such as an unknown path or method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    return error_response(
        error.status_code, f"{error.detail}: {request.method} {request.url.path}", dict(error.headers or {})
    )
