"""The HTTP interface of SageMaker's hosting contract, as an ASGI application.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune.serving.errors import busy_response, error_response, handle_http_exception
from finetune.serving.multi_model import ModelStore
from finetune.serving.service import Service


def create_app(service: Service) -> ASGIApp:
    """Create the application; requests are answered with 503 until the service has started."""

    async def ping(request: Request) -> Response:
        del request
        if service.is_stopping:
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")
        return JSONResponse({"status": "Healthy"}) if service.is_ready else _not_ready()

    async def invoke(request: Request) -> Response:
        return _not_ready() if service.model is None else await service.invoke(request, service.model)

    async def execution_parameters(request: Request) -> Response:
        del request
        return _not_ready() if service.model is None else JSONResponse(service.execution_parameters(service.model))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.loop = asyncio.get_running_loop()
        yield

    single_model = [
        Route("/invocations", invoke, methods=["POST"]),
        Route("/execution-parameters", execution_parameters),
    ]
    models = ModelStore(service).routes() if service.configuration.multi_model else single_model
    app = Starlette(
        routes=[Route("/ping", ping), *models],
        exception_handlers={HTTPException: handle_http_exception},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # the contract has no redirects
    return _ConnectionCloser(app, service)


def _not_ready() -> Response:
    return busy_response("the model is being loaded")


class _ConnectionCloser:
    """Closes connections after their current response while the server is stopping, so that clients open none anew."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._service.is_stopping:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_and_close)
