"""An artifact loaded for serving: its own handler, and one copy of its model per device."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
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
_OPTION_FUNCTIONS = ("parse_options", "apply_options")
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

    def __init__(
        self, folder: Path, handler: ModuleType, copies: Sequence[Any], devices: Sequence[torch.device]
    ) -> None:
        self.folder = folder
        self.can_batch = all(hasattr(handler, name) for name in _BATCHING_FUNCTIONS)
        self._has_options = self.can_batch and all(hasattr(handler, name) for name in _OPTION_FUNCTIONS)
        self._handler = handler
        self._copies = copies
        self._devices = devices

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> ServedModel:
        """Load the artifact in `folder` and predict once, so that later calls are fast.

        Args:
            folder: folder of the artifact.
            device: device of the model; by default it is loaded onto every GPU, or for the CPU.

        Raises:
            UserError: the folder contains no artifact of this project, or one of another format.
        """
        devices = all_devices() if device is None else [device]
        with _LOADING:
            try:
                handler = load_handler(folder)
                copies = [_load_copy(handler, folder, each) for each in devices]
                if device is not None:
                    copies = [_moved(copies[0], device)]
            except (FileNotFoundError, ValueError) as error:
                raise UserError(f"The model cannot be loaded: {error}. {_contents(folder)}") from error
        missing = [name for name in _TOOLKIT_FUNCTIONS if not hasattr(handler, name)]
        if missing:
            raise UserError(f"{folder / HANDLER_FILE} does not define {', '.join(missing)}.")
        model = cls(folder, handler, copies, devices)
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

    @property
    def is_multi_label(self) -> bool:
        """Whether a record may have several labels, or none; only of models that can batch."""
        return bool(self._copies[0].artifact["multi_label"])

    @property
    def texts_per_record(self) -> int:
        """Number of texts of a record, 1 for images; only of models that can batch."""
        return int(self._copies[0].artifact["preprocessing"].get("texts_per_record", 1))

    def parse(self, body: bytes, content_type: str, options: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - the type is the handler's
        """Parse a request body.

        Args:
            body: request body.
            content_type: MIME type of the body.
            options: options of the request by name; see the handler.

        Raises:
            ClientError: the body, its type or an option is not supported.
        """
        with _client_errors():
            if not options:
                return self._handler.input_fn(body, content_type)
            parsed = self.parse_options(options)
            request = self._handler.input_fn(body, content_type)
            given = {name: value for name, value in vars(parsed).items() if value not in (None, ())}
            if "top_k" in given and "top_ks" in vars(parsed):
                given["top_ks"] = ()  # of single records, in the body
            return replace(request, options=replace(request.options, **given))

    def parse_options(self, options: Mapping[str, str]) -> Any:  # noqa: ANN401 - the type is the handler's
        """Parse options of a request by name.

        Raises:
            ClientError: an option is not supported.
        """
        if not self._has_options:
            raise ClientError(400, f"the handler of this model does not support {', '.join(options)}")
        with _client_errors():
            return self._handler.parse_options(options)

    def apply_options(self, record: Mapping[str, Any], options: Any) -> Mapping[str, Any]:  # noqa: ANN401 - see above
        """Return a result of `classify` as the options request it."""
        changed: Mapping[str, Any] = self._handler.apply_options(record, options)
        return changed

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
        with _on_device(self._devices[device % len(self._copies)]):
            if self.can_batch:
                return self._classify_groups(items, copy)
            with _client_errors():
                return [self._handler.predict_fn(item, copy) for item in items]

    def _classify_groups(self, items: Sequence[Any], copy: Any) -> list[Any]:  # noqa: ANN401 - the type is the handler's
        groups = [list(range(len(items)))]
        if self.is_text_model and copy.device.type == "cpu":
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
            options = {"options": request.options} if self._has_options else {}
            if hasattr(self._handler, "FORMS"):
                options["artifact"] = self._copies[0].artifact
            prediction = self._handler.Predictions(list(results), request.single, **options)
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
        texts = ("a",) * self.texts_per_record
        self.classify(self.prepare_content(texts if self.is_text_model else _blank_image()), device)


def all_devices() -> list[torch.device]:
    """Return all GPUs, or the CPU if there are none."""
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [torch.device("cpu")]


def _load_copy(handler: ModuleType, folder: Path, device: torch.device) -> Any:  # noqa: ANN401 - the type is the handler's
    with _on_device(device), _quiet(folder):
        return handler.model_fn(str(folder))


def _moved(copy: Any, device: torch.device) -> Any:  # noqa: ANN401 - the type is the handler's
    """Return a model on another device than the handler has chosen, which prefers a GPU."""
    if getattr(copy, "device", device).type == device.type:
        return copy
    return replace(copy, module=copy.module.to(device), device=device)


@contextmanager
def _on_device(device: torch.device) -> Iterator[None]:
    """Make a GPU the current one of this thread; the handler uses the current one."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
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
