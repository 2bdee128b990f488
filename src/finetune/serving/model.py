"""An artifact loaded for serving: its own handler, and one copy of its model per device."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image

from finetune.errors import UserError
from finetune.export.handler import HANDLER_FILE, load_handler
from finetune.models.weights.sources import CONFIG_FILE
from finetune.serving.length_groups import group_by_length

_TOOLKIT_FUNCTIONS = ("model_fn", "input_fn", "predict_fn", "output_fn")
_BATCHING_FUNCTIONS = ("prepare_fn", "classify_fn", "response_type")
_LOADING = threading.Lock()


class ClientError(ValueError):
    """A request that the model does not accept.

    Attributes:
        status: HTTP status, below 500.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """Body and content type of a response."""

    body: bytes
    media_type: str


class ServedModel:
    """A loaded artifact; its methods may be called by several threads at once.

    The handler of this project preprocesses and classifies records separately, so requests can share a batch. A handler
    with only the four functions of AWS's toolkit processes each request at once.

    Attributes:
        folder: folder of the artifact.
        can_batch: whether requests can share a batch.
    """

    def __init__(self, folder: Path, handler: ModuleType, copies: Sequence[Any]) -> None:
        self.folder = folder
        self.can_batch = all(hasattr(handler, name) for name in _BATCHING_FUNCTIONS)
        self._handler = handler
        self._copies = copies

    @classmethod
    def load(cls, folder: Path) -> ServedModel:
        """Load the artifact in `folder` onto every GPU, or for the CPU, and predict once so that later calls are fast.

        Raises:
            UserError: the folder contains no artifact of this project, or one of another format.
        """
        with _LOADING:
            try:
                handler = load_handler(folder)
                copies = [_load_copy(handler, folder, device) for device in range(max(1, torch.cuda.device_count()))]
            except (FileNotFoundError, ValueError) as error:
                raise UserError(f"The model cannot be loaded: {error}. {_contents(folder)}") from error
        missing = [name for name in _TOOLKIT_FUNCTIONS if not hasattr(handler, name)]
        if missing:
            raise UserError(f"{folder / HANDLER_FILE} does not define {', '.join(missing)}.")
        model = cls(folder, handler, copies)
        for index in range(len(copies)):
            model._warm_up(index)
        return model

    @property
    def is_text_model(self) -> bool:
        """Whether the model classifies texts, of which a request may contain any number."""
        return getattr(self._copies[0], "tokenizer", None) is not None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the model; only of models that can batch."""
        return tuple(self._copies[0].artifact["labels"])

    def parse(self, body: bytes, content_type: str) -> Any:  # noqa: ANN401 - the type is the handler's
        """Parse a request body.

        Raises:
            ClientError: the body or its type is not supported.
        """
        with _client_errors():
            return self._handler.input_fn(body, content_type)

    def count(self, request: Any) -> int:  # noqa: ANN401 - the type is the handler's
        """Return the number of items into which `prepare` splits the request."""
        return len(request.contents) if self.can_batch else 1

    def prepare(self, request: Any, start: int, count: int) -> list[Any]:  # noqa: ANN401 - the type is the handler's
        """Preprocess `count` records of a request from `start` on.

        Raises:
            ClientError: a record is not accepted.
        """
        if not self.can_batch:
            return [request]
        with _client_errors():
            items: list[Any] = self._handler.prepare_fn(request, self._copies[0], start, count)
            return items

    def prepare_content(self, content: object) -> list[Any]:
        """Preprocess a single content, as the handler's `input_fn` returns it; only of models that can batch.

        Raises:
            ClientError: the content is not accepted.
        """
        return self.prepare(self._handler.Request([content], single=True), 0, 1)

    def classify(self, items: Sequence[Any], device: int = 0) -> list[Any]:
        """Classify preprocessed records on a device, identified by its index.

        They share a forward pass, except texts of different lengths on a CPU, whose padding would cost more.

        Raises:
            ClientError: a record is not accepted; only if the model cannot batch.
        """
        copy = self._copies[device % len(self._copies)]
        with _on_device(device % len(self._copies)):
            if self.can_batch:
                return self._classify_groups(items, copy)
            with _client_errors():
                return [self._handler.predict_fn(item, copy) for item in items]

    def _classify_groups(self, items: Sequence[Any], copy: Any) -> list[Any]:  # noqa: ANN401 - the type is the handler's
        groups = [list(range(len(items)))]
        if self.is_text_model and not torch.cuda.is_available():
            groups = group_by_length([len(next(iter(item.values()))) for item in items])
        results: list[Any] = [None] * len(items)
        for group in groups:
            records = self._handler.classify_fn([items[index] for index in group], copy)
            for index, record in zip(group, records, strict=True):
                results[index] = record
        return results

    def check_accept(self, accept: str) -> None:
        """Check the accepted response types, before anything is computed.

        Raises:
            ClientError: none of them is supported; status 406.
        """
        if self.can_batch:
            with _client_errors():
                self._handler.response_type(accept)

    def respond(self, request: Any, results: Sequence[Any], accept: str) -> Answer:  # noqa: ANN401 - see above
        """Serialize the results of all items of a request.

        Raises:
            ClientError: no accepted response type is supported; status 406.
        """
        if self.can_batch:
            prediction = self._handler.Predictions(list(results), request.single)
            media_type = self._handler.response_type(accept)
        else:
            (prediction,) = results
            media_type = accept.split(",")[0].split(";")[0].strip()
        output = self._handler.output_fn(prediction, accept)
        if isinstance(output, tuple):  # as AWS's toolkit allows
            output, media_type = output
        return Answer(output.encode("utf-8") if isinstance(output, str) else bytes(output), media_type)

    def _warm_up(self, device: int) -> None:
        """Predict a blank record: on a GPU the first pass takes seconds, and tokenizers set themselves up."""
        if not self.can_batch:
            return
        texts = ("a",) * self._copies[0].artifact["preprocessing"].get("texts_per_record", 1)
        self.classify(self.prepare_content(texts if self.is_text_model else _blank_image()), device)


def _load_copy(handler: ModuleType, folder: Path, device: int) -> Any:  # noqa: ANN401 - the type is the handler's
    with _on_device(device), _quiet(folder):
        return handler.model_fn(str(folder))


@contextmanager
def _on_device(device: int) -> Iterator[None]:
    """Make a GPU the current one of this thread, if there are GPUs; the handler uses the current one."""
    with torch.cuda.device(device) if torch.cuda.is_available() else nullcontext():
        yield


def _quiet(folder: Path) -> AbstractContextManager[None]:
    """Silence progress bars of transformers, which is imported only for its models."""
    if not (folder / CONFIG_FILE).is_file():
        return nullcontext()
    from finetune.models.transformers.folder import quiet

    return quiet()


@contextmanager
def _client_errors() -> Iterator[None]:
    """Convert errors of the handler about the request; those of older handlers have no status."""
    try:
        yield
    except ValueError as error:
        raise ClientError(int(getattr(error, "status", 400)), str(error)) from error


def _blank_image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    return file.getvalue()


def _contents(folder: Path) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}."
    return f"{folder} contains {', '.join(names[:10]) or 'nothing'}."
