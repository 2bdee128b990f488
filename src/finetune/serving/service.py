"""Answers invocations: limits their number, preprocesses them in a thread pool, and classifies them in batches."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from finetune.serving.batching import Batcher
from finetune.serving.body import BodyError, BodyReader, discard
from finetune.serving.configuration import TRANSFORM_MIB, ServingConfiguration
from finetune.serving.errors import busy_response, error_response

if TYPE_CHECKING:
    from finetune.serving.model import Answer, ServedModel

OPTIONS = ("top_k", "min_confidence", "format")
"""Options of a request, in the query or in the header with custom attributes."""
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Service:
    """State shared by all requests of the server.

    Requests are handled by the event loop; `start`, `stop` and `close` are called by another thread.

    Attributes:
        configuration: settings of the server.
        loop: the event loop, once it is running.
        model: the model of `/invocations`; `None` until it is loaded, and in a multi-model server.
        is_ready: whether requests are accepted.
        is_stopping: whether the server is about to end.
    """

    def __init__(self, configuration: ServingConfiguration) -> None:
        self.configuration = configuration
        self.loop: asyncio.AbstractEventLoop | None = None
        self.model: ServedModel | None = None
        self.is_ready = False
        self.is_stopping = False
        self._batcher = Batcher(configuration.max_batch, configuration.max_delay_seconds)
        self._bodies = BodyReader(configuration.max_body_bytes)
        self._preprocessing = ThreadPoolExecutor(1)
        self._requests = 0
        self._waiting: dict[int, float] = {}

    def start(
        self,
        model: ServedModel | None,
        workers: int,
        set_up_worker: Callable[[], None],
        set_up_preprocessing: Callable[[], None],
    ) -> None:
        """Accept requests from now on.

        Args:
            model: the model of `/invocations`, if there is one.
            workers: number of threads that run forward passes.
            set_up_worker: called first in each of these threads.
            set_up_preprocessing: called first in each thread that preprocesses records.
        """
        self._batcher.start(workers, set_up_worker)
        cores = len(os.sched_getaffinity(0))
        self._preprocessing = ThreadPoolExecutor(max(2, cores), "preprocess", set_up_preprocessing)
        self.model = model
        self.is_ready = True

    def stop(self) -> None:
        """Prepare for the end of the server; requests are still answered."""
        self.is_stopping = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._bodies.stop)

    def counts(self) -> tuple[int, int]:
        """Return the numbers of records and batches so far."""
        return self._batcher.records, self._batcher.batches

    def close(self) -> None:
        """End all threads, after the last request."""
        self._preprocessing.shutdown()
        self._batcher.close()

    def execution_parameters(self, model: ServedModel) -> dict[str, object]:
        """Return parameters for batch transform: texts are sent in mini-batches, images one by one."""
        payload = self.configuration.transform_mib
        transforms = max(1, min(self.configuration.max_batch, TRANSFORM_MIB // payload))
        strategy = "MULTI_RECORD" if model.is_text_model else "SINGLE_RECORD"
        return {"MaxConcurrentTransforms": transforms, "BatchStrategy": strategy, "MaxPayloadInMB": payload}

    async def read_body(self, request: Request) -> bytes:
        """Read the body of a request.

        Raises:
            BodyError: see `BodyReader`.
        """
        return await self._bodies.read(request)

    async def invoke(self, request: Request, model: ServedModel) -> Response:
        """Answer a request with the predictions of a model, or with an error."""
        if (reason := self._refusal()) is not None:
            await discard(request)
            return busy_response(f"{reason}; try again later")
        with self._counted():
            try:
                body = await self._bodies.read(request)
                answer = await self._answer(model, body, request)
            except BodyError as error:
                return _client_error(error.status, str(error))
            except Exception as error:  # noqa: BLE001 - every request is answered
                status = getattr(error, "status", None)
                return self._server_error(error) if status is None else _client_error(int(status), str(error))
        return Response(answer.body, headers={"Content-Type": answer.media_type})

    def _refusal(self) -> str | None:
        """Return why no further request is accepted; `None` if one is.

        The wait is limited besides the number of requests: a slow model would otherwise accept requests that it answers
        only when their clients have given up, and would go on to do so long after an overload.
        """
        settings = self.configuration
        if self._requests >= settings.max_requests:
            return f"all {settings.max_requests} places of the queue are taken"
        oldest = next(iter(self._waiting.values()), None)
        if oldest is not None and time.monotonic() - oldest > settings.max_wait_seconds:
            return f"requests wait for more than {settings.max_wait_seconds:g} s"
        return None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def _answer(self, model: ServedModel, body: bytes, request: Request) -> Answer:
        """Parse, preprocess, classify and serialize; large requests are processed in parts, to limit their memory."""
        accept = request.headers.get("accept") or self.configuration.default_accept
        content_type, size = request.headers.get("content-type", ""), self.configuration.max_batch
        options = {**_header_options(request.headers.get(_ATTRIBUTES, "")), **request.query_params}
        parsed: list[Any] = []

        def parse() -> list[Any]:
            model.check_accept(accept)
            parsed.append(model.parse(body, content_type, options))
            return model.prepare(parsed[0], 0, size)

        self._waiting[id(request)] = time.monotonic()
        try:
            results = await self._classify(model, parse)
        finally:
            del self._waiting[id(request)]
        for start in range(size, model.count(parsed[0]), size):
            results += await self._classify(model, partial(model.prepare, parsed[0], start, size))
        return await self._in_thread(partial(model.respond, parsed[0], results, accept))

    async def _classify(self, model: ServedModel, prepare: Callable[[], Sequence[Any]]) -> list[Any]:
        self._batcher.expect(model)
        try:
            items = await self._in_thread(prepare)
        except BaseException:
            self._batcher.cancel(model)
            raise
        if not items:
            self._batcher.cancel(model)
            return []
        results: list[Any] = await asyncio.wrap_future(self._batcher.submit(model, items))
        return results

    def _server_error(self, error: Exception) -> Response:
        """Respond to an error of the model; 507 makes a multi-model endpoint unload other models."""
        from finetune.serving.memory import is_out_of_memory

        logger.error("A request failed", exc_info=error)
        unloading_helps = self.configuration.multi_model and is_out_of_memory(error)
        status = HTTPStatus.INSUFFICIENT_STORAGE if unloading_helps else HTTPStatus.INTERNAL_SERVER_ERROR
        return error_response(status, f"{type(error).__name__}: {error}")

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._preprocessing, function)


def _header_options(attributes: str) -> dict[str, str]:
    """Return the options in custom attributes such as `top_k=3;min_confidence=0.6`; others are for other programs."""
    pairs = (attribute.partition("=") for attribute in attributes.split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip() in OPTIONS}


def _client_error(status: int, cause: str) -> Response:
    logger.warning("%d %s: %s", status, HTTPStatus(status).phrase, cause)
    return error_response(status, cause)
