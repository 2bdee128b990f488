"""Predictions in Python with the model of a finished job, by the handler in its artifact."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, overload

from PIL import Image

from finetune.errors import UserError
from finetune.models.weights.archive import is_archive, unpack
from finetune.serving.model import ServedModel

if TYPE_CHECKING:
    from finetune.export.inference import Content

Input = str | bytes | Path | Image.Image | tuple[str, ...]
"""An image: its file (`Path` or `str`), encoded bytes, or an image of Pillow. A text: `str`, or a tuple for a pair."""

BATCH_SIZE = 32
_ARTIFACT, _MODEL, _ARCHIVE = "artifact.json", "model", "model.tar.gz"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image or text.

    Attributes:
        labels: the predicted label; any number of labels with `multi_label`.
        probabilities: probability of each class, in the order of the model.
    """

    labels: tuple[str, ...]
    probabilities: Mapping[str, float]

    @property
    def label(self) -> str:
        """The predicted label; the most probable one with `multi_label`."""
        if len(self.labels) == 1:
            return self.labels[0]
        return max(self.labels or self.probabilities, key=lambda name: self.probabilities[name])


class Predictor:
    """A loaded model; its methods may be called by several threads at once.

    Attributes:
        labels: the classes, in the order of the model.
        is_text_model: whether it classifies texts; otherwise it classifies images.
    """

    def __init__(self, model: ServedModel) -> None:
        self.labels: tuple[str, ...] = model.labels
        self.is_text_model = model.is_text_model
        self._model = model

    @overload
    def predict(self, inputs: Input) -> Prediction: ...  # type: ignore[overload-overlap]  # a string is one input
    @overload
    def predict(self, inputs: Iterable[Input]) -> list[Prediction]: ...
    def predict(self, inputs: Input | Iterable[Input]) -> Prediction | list[Prediction]:
        """Classify one image or text, or several of them in batches; see `Input`.

        A list of strings is several texts, and a tuple of strings is one pair of texts.

        Raises:
            ValueError: an input cannot be read, or is of the wrong kind; the message counts inputs from 0.
        """
        if isinstance(inputs, str | bytes | Path | Image.Image | tuple):
            return next(self.stream([inputs]))
        return list(self.stream(inputs))

    def stream(self, inputs: Iterable[Input]) -> Iterator[Prediction]:
        """Classify any number of images or texts in batches, keeping only one batch in memory.

        Raises:
            ValueError: see `predict`.
        """
        remaining, start = iter(inputs), 0
        with ThreadPoolExecutor(max_workers=max(2, len(os.sched_getaffinity(0)))) as pool:
            while batch := list(islice(remaining, BATCH_SIZE)):
                numbered = range(start, start + len(batch))
                items = [item for prepared in pool.map(self._prepare, numbered, batch) for item in prepared]
                yield from map(_prediction, self._model.classify(items))
                start += len(batch)

    def _prepare(self, index: int, value: Input) -> Sequence[object]:
        try:
            return self._model.prepare_content(self._content(value))
        except (ValueError, OSError) as error:
            raise ValueError(f"input {index} (counted from 0): {error}") from error

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


def load_predictor(path: Path | str) -> Predictor:
    """Load the artifact at a path; see `finetune.load`."""
    path = Path(path)
    if str(path).startswith("s3:"):
        raise UserError(f"{path} is not a local path; download it, for example with `aws s3 cp`.")
    places = [path, path / _MODEL, path / _ARCHIVE, path / _MODEL / _ARCHIVE]
    for place in places:
        if (place / _ARTIFACT).is_file():
            return _load(place)
        if place.is_file() and is_archive(place):
            with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
                return _load(unpack(place, Path(scratch)))
    raise UserError(
        f"{path} contains no model of this project: neither {_ARTIFACT} nor {_ARCHIVE}. Give the model.tar.gz of a"
        " finished job, or the folder of its contents."
    )


def _load(folder: Path) -> Predictor:
    model = ServedModel.load(folder)
    if not model.can_batch:
        raise UserError(
            f"The handler of {folder} has no prepare_fn and classify_fn; its model was exported by an earlier version"
            " of this project, or its handler was replaced. Serve it with `docker run IMAGE serve`."
        )
    return Predictor(model)


def _prediction(record: Mapping[str, object]) -> Prediction:
    names, values = record["labels"], record["probabilities"]
    labels = record.get("predicted_labels", [record.get("predicted_label")])
    assert isinstance(names, list)  # noqa: S101 - the handler's response format
    assert isinstance(values, list)  # noqa: S101
    assert isinstance(labels, list)  # noqa: S101
    return Prediction(tuple(labels), dict(zip(names, values, strict=True)))
