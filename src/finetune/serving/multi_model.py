"""The HTTP interface of multi-model endpoints: models are loaded, listed, described, invoked and unloaded by name.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from finetune.errors import UserError
from finetune.serving.body import BodyError
from finetune.serving.errors import busy_response, error_response
from finetune.serving.service import Service

if TYPE_CHECKING:
    from finetune.serving.model import ServedModel

logger = logging.getLogger(__name__)


@dataclass
class _Entry:
    """A model that is loaded, or being loaded.

    Attributes:
        url: folder of the artifact, as named by the platform.
        model: `None` while it is being loaded.
        requests: number of requests in progress.
        is_idle: set while there are none.
    """

    url: str
    model: ServedModel | None = None
    requests: int = 0
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request in progress."""
        self.requests += 1
        self.is_idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self.is_idle.set()


class ModelStore:
    """The models of a multi-model server by name; used by the event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._entries: dict[str, _Entry] = {}
        # Memory is checked before each load, so loads must not overlap.
        self._loading = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return the routes of the interface."""
        return [
            Route("/models", self._load, methods=["POST"]),
            Route("/models", self._list),
            Route("/models/{name}", self._describe),
            Route("/models/{name}", self._unload, methods=["DELETE"]),
            Route("/models/{name}/invoke", self._invoke, methods=["POST"]),
        ]

    async def _load(self, request: Request) -> Response:
        if not self._service.is_ready:
            return busy_response("the server is starting")
        try:
            name, url = _load_request(await self._service.read_body(request))
        except BodyError as error:
            return error_response(error.status, str(error))
        except ValueError as error:
            return error_response(HTTPStatus.BAD_REQUEST, str(error))
        if name in self._entries:
            return error_response(HTTPStatus.CONFLICT, f"model {name!r} is already loaded")
        entry = self._entries[name] = _Entry(url)
        entry.is_idle.set()
        try:
            async with self._loading:
                entry.model = await asyncio.to_thread(_load_model, Path(url))
        except BaseException as error:
            del self._entries[name]
            if isinstance(error, Exception):
                return _load_error(name, error)
            raise
        logger.info("Loaded model %s from %s", name, url)
        return JSONResponse({"status": f"model {name!r} is loaded"})

    async def _list(self, request: Request) -> Response:
        loaded = [_description(name, entry) for name, entry in self._entries.items() if entry.model is not None]
        limit, token = (request.query_params.get(key, "") for key in ("limit", "next_page_token"))
        if not all(value.isdecimal() for value in (limit or "0", token or "0")):
            return error_response(HTTPStatus.BAD_REQUEST, "limit and next_page_token must be integers")
        start = int(token or 0)
        stop = start + (int(limit or 0) or len(loaded))
        following = {"nextPageToken": str(stop)} if stop < len(loaded) else {}
        return JSONResponse({"models": loaded[start:stop], **following})

    async def _describe(self, request: Request) -> Response:
        name, entry = self._find(request)
        return _not_found(name) if entry is None else JSONResponse(_description(name, entry))

    async def _invoke(self, request: Request) -> Response:
        name, entry = self._find(request)
        if entry is None or entry.model is None:
            return _not_found(name)
        with entry.in_use():
            return await self._service.invoke(request, entry.model)

    async def _unload(self, request: Request) -> Response:
        name, entry = self._find(request)
        if entry is None:
            return _not_found(name)
        del self._entries[name]
        await entry.is_idle.wait()
        entry.model = None
        await asyncio.to_thread(_release_memory)
        logger.info("Unloaded model %s", name)
        return JSONResponse({"status": f"model {name!r} is unloaded"})

    def _find(self, request: Request) -> tuple[str, _Entry | None]:
        """Return the name in the path, and its model if it is loaded."""
        name = str(request.path_params["name"])
        entry = self._entries.get(name)
        return name, entry if entry is not None and entry.model is not None else None


def _load_request(body: bytes) -> tuple[str, str]:
    try:
        value = json.loads(body)
        name, url = value["model_name"], value["url"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError('the body must be {"model_name": "...", "url": "..."}') from error
    if not (isinstance(name, str) and name and isinstance(url, str)):
        raise ValueError("model_name and url must be strings")
    if "\0" in url or not Path(url).is_dir():
        raise ValueError(f"url {url!r} is not a folder of this container")
    return name, url


def _load_model(folder: Path) -> ServedModel:
    # PyTorch is imported by the time that requests are accepted.
    from finetune.serving.memory import memory_problem
    from finetune.serving.model import ServedModel

    if problem := memory_problem(folder):
        raise MemoryError(problem)
    return ServedModel.load(folder)


def _release_memory() -> None:
    from finetune.serving.memory import release_memory

    release_memory()


def _load_error(name: str, error: Exception) -> Response:
    from finetune.serving.memory import is_out_of_memory

    if is_out_of_memory(error):
        _release_memory()
        cause = f"model {name!r} does not fit: {error}"
        logger.warning("%s", cause)
        return error_response(HTTPStatus.INSUFFICIENT_STORAGE, cause)
    if isinstance(error, UserError):
        logger.warning("%s", error)
        return error_response(HTTPStatus.BAD_REQUEST, str(error))
    logger.error("Model %s cannot be loaded", name, exc_info=error)
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")


def _not_found(name: str) -> Response:
    return error_response(HTTPStatus.NOT_FOUND, f"model {name!r} is not loaded")


def _description(name: str, entry: _Entry) -> dict[str, str]:
    return {"modelName": name, "modelUrl": entry.url}
