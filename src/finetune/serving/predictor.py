"""Predictions in Python with the model of a finished job, by the handler in its artifact."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image

from finetune.errors import UserError
from finetune.runtime.threads import usable_cores
from finetune.serving.artifact import artifact_folder
from finetune.serving.model import ServedModel, all_devices

if TYPE_CHECKING:
    from finetune.export.inference import Content

Input = str | bytes | Path | Image.Image | tuple[str, ...]
"""An image: its file (`Path` or `str`), encoded bytes, or an image of Pillow. A text: `str`, or a tuple for a pair."""

BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image or text.

    Attributes:
        labels: the predicted label; any number of labels with `multi_label`. Empty if `min_confidence` is not reached.
        probabilities: probability of each class, in the order of the model; with `top_k` only of the most probable
            classes, in descending order.
    """

    labels: tuple[str, ...]
    probabilities: Mapping[str, float]

    @property
    def label(self) -> str | None:
        """The predicted label, with `multi_label` the most probable of them; `None` if no label is predicted."""
        return max(self.labels, key=lambda name: self.probabilities.get(name, 0.0), default=None)


class Predictor:
    """A loaded model; its methods may be called by several threads at once.

    Attributes:
        labels: the classes, in the order of the model.
        is_text_model: whether it classifies texts; otherwise it classifies images.
        texts_per_record: 2 for a model of text pairs, otherwise 1.
        is_multi_label: whether an input may have several labels, or none.
    """

    def __init__(self, model: ServedModel) -> None:
        self.labels: tuple[str, ...] = model.labels
        self.is_text_model = model.is_text_model
        self.texts_per_record = model.texts_per_record
        self.is_multi_label = model.is_multi_label
        self._model = model

    @overload
    def predict(  # type: ignore[overload-overlap]  # a string is one input
        self, inputs: Input, *, top_k: int | None = None, min_confidence: float | None = None
    ) -> Prediction: ...
    @overload
    def predict(
        self, inputs: Iterable[Input], *, top_k: int | None = None, min_confidence: float | None = None
    ) -> list[Prediction]: ...
    def predict(
        self, inputs: Input | Iterable[Input], *, top_k: int | None = None, min_confidence: float | None = None
    ) -> Prediction | list[Prediction]:
        """Classify one image or text, or several of them in batches; see `Input`.

        A list of strings is several texts, and a tuple of strings is one pair of texts.

        Args:
            inputs: images or texts.
            top_k: number of most probable classes in `probabilities`; all by default.
            min_confidence: abstain from labels with a lower probability.

        Raises:
            ValueError: an input cannot be read, or is of the wrong kind; the message counts inputs from 0. Or an option
                is invalid.
        """
        is_single = isinstance(inputs, str | bytes | Path | Image.Image | tuple)
        every: Iterable[Input] = [inputs] if is_single else inputs  # type: ignore[list-item, assignment]
        predictions = list(self.stream(every, top_k=top_k, min_confidence=min_confidence))
        return predictions[0] if is_single else predictions

    def stream(
        self, inputs: Iterable[Input], *, top_k: int | None = None, min_confidence: float | None = None
    ) -> Iterator[Prediction]:
        """Classify any number of images or texts in batches, keeping only one batch in memory.

        Raises:
            ValueError: see `predict`.
        """
        options = {"top_k": top_k, "min_confidence": min_confidence}
        for index, outcome in enumerate(self.outcomes(inputs, options)):
            if isinstance(outcome, ValueError):
                raise ValueError(f"input {index} (counted from 0): {outcome}") from outcome
            yield _prediction(outcome)

    def outcomes(
        self, inputs: Iterable[Input], options: Mapping[str, float | None], batch_size: int = BATCH_SIZE
    ) -> Iterator[Mapping[str, Any] | ValueError]:
        """Classify any number of inputs, and yield an error in place of each one that cannot be classified.

        Args:
            inputs: images or texts.
            options: `top_k` and `min_confidence`; see `predict`.
            batch_size: number of inputs in a forward pass.

        Yields:
            The JSON object of the handler, with `labels`, `probabilities` and `predicted_label` (`predicted_labels`
            with several labels per record); or the reason why there is none.

        Raises:
            ValueError: an option is invalid.
        """
        given = {name: str(value) for name, value in options.items() if value is not None}
        parsed = self._model.parse_options(given) if given else None
        remaining = iter(inputs)
        with ThreadPoolExecutor(max_workers=max(2, usable_cores())) as pool:
            while batch := list(islice(remaining, batch_size)):
                prepared = list(pool.map(self._prepare, batch))
                items = [item for item in prepared if not isinstance(item, ValueError)]
                records = iter(self._model.classify(items) if items else [])
                for item in prepared:
                    if isinstance(item, ValueError):
                        yield item
                    else:
                        yield self._model.apply_options(next(records), parsed) if given else next(records)

    def _prepare(self, value: Input) -> object:
        """Return the preprocessed input, or the error."""
        try:
            (item,) = self._model.prepare_content(self._content(value))
        except OSError as error:
            return ValueError(error.strerror or str(error))
        except ValueError as error:
            return error
        return item

    def _content(self, value: Input) -> Content:
        """The content as the handler expects it."""
        if self.is_text_model:
            if isinstance(value, str):
                return (value,)
            if isinstance(value, tuple):
                return value
            raise ValueError(f"this model expects texts, not {type(value).__name__}")
        if isinstance(value, Image.Image):
            file = io.BytesIO()
            value.save(file, "PNG")
            return file.getvalue()
        if isinstance(value, tuple):
            raise ValueError("this model expects images; give the path or the bytes of a file")
        return value if isinstance(value, bytes) else Path(value).read_bytes()


def load_predictor(path: Path | str, device: str | None = None) -> Predictor:
    """Load the artifact at a path; see `finetune.load`."""
    target = _device(device)
    with artifact_folder(path) as folder:
        return _load(folder, target)


def _device(name: str | None) -> torch.device:
    """Return the device of a name such as `cpu` or `cuda:1`; by default the first GPU, if there is one.

    Raises:
        UserError: the name is unknown, or this machine has no such device.
    """
    if name is None:
        return all_devices()[0]
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA raises AssertionError
        known = ", ".join(str(each) for each in all_devices())
        raise UserError(f"device {name!r} is not available: use cpu, or one of this machine's: {known}.") from error
    return all_devices()[0] if device == torch.device("cuda") else device


def _load(folder: Path, device: torch.device) -> Predictor:
    model = ServedModel.load(folder, device)
    if not model.can_batch:
        raise UserError(
            f"The handler of {folder} has no prepare_fn and classify_fn; its model was exported by an earlier version"
            " of this project, or its handler was replaced. Serve it with `docker run IMAGE serve`."
        )
    return Predictor(model)


def _prediction(record: Mapping[str, object]) -> Prediction:
    names, values = record["labels"], record["probabilities"]
    label = record.get("predicted_label")
    labels = record.get("predicted_labels", [] if label is None else [label])
    assert isinstance(names, list)  # noqa: S101 - the handler's response format
    assert isinstance(values, list)  # noqa: S101
    assert isinstance(labels, list)  # noqa: S101
    return Prediction(tuple(labels), dict(zip(names, values, strict=True)))
