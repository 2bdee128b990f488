"""Inference handler for the SageMaker PyTorch inference toolkit, serving the model in the folder above this file.

The file is self-contained: it needs torch, torchvision, pillow and safetensors, plus transformers or timm for their
models, and nothing of the package that wrote it. Request and response formats:
- images: encoded bytes as application/x-image or image/*, or base64 strings as JSON (`{"inputs": "..."}` or a list);
- text: JSON (`{"inputs": "..."}`, a list, or `{"inputs": {"text": "...", "text_pair": "..."}}`), JSON Lines, CSV or
  TSV without a header (one column, or two for pairs), or a single text as text/plain;
- responses: JSON, JSON Lines, CSV (no header: predicted label, then probabilities in the order of the labels; labels
  are written unchanged, even if a spreadsheet would interpret one as a formula) or NPY (probabilities, float32).

A request may have `Options`: `top_k` returns only the most probable classes, in descending order (in CSV as label,
probability, label, …). With `min_confidence`, a label with a lower probability is not predicted: it is `null` in JSON
and empty in CSV. The server of the training image sets them.

If the training job was requested in the dialect of another tool, `artifact.json` names it, and JSON and JSON Lines have
the form of that tool's answers. `format` selects another form, `plain` for the one above, as do `;verbose` after the
accepted type, `min_confidence`, and `top_k` where the tool has none. Requests in the forms of these tools are accepted
by every model: `{"inputs": ..., "parameters": {"top_k": 2}}`, `{"instances": [...], "configuration": {"k": 2}}`, and
JSON Lines of `{"source": ..., "k": 2}`.

Client errors are a `ValueError` with an attribute `status`, or the toolkit's own error if it is installed: 400 (body),
415 (content type) or 406 (accepted types), so that clients do not retry. All other errors have status 500.

A server that combines requests calls `prepare_fn` and `classify_fn` instead of `predict_fn`.

`python code/inference.py FILE...` classifies files and prints a JSON object per image or text.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import math
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode, functional

FORMAT_VERSION, BATCH_SIZE, THRESHOLD, MAX_PIXELS = 1, 32, 0.5, 100_000_000
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_TYPES = (
    *("application/x-image", "image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp", "image/gif"),
    *("image/tiff", "image/x-portable-pixmap"),
)
# Images with more pixels are converted to RGB in bands of this many pixels, to save memory.
BAND_PIXELS = 1 << 22
JSON, JSON_LINES, CSV, TSV, PLAIN = (
    *("application/json", "application/jsonlines", "text/csv", "text/tab-separated-values"),
    "text/plain",
)
NPY = "application/x-npy"
PLAIN_FORM, MXNET, BLAZINGTEXT, HUGGING_FACE = "plain", "mxnet_image_classification", "blazingtext", "huggingface"
PROBABILITIES_ONLY = ("tensorflow_image_classification", "tensorflow_text_classification", "jumpstart")
FORMS = (PLAIN_FORM, MXNET, *PROBABILITIES_ONLY, BLAZINGTEXT, HUGGING_FACE)
# Number of classes that the Hugging Face toolkit returns for an image.
IMAGE_TOP_K = 5
# Parameters of the Hugging Face toolkit that do not change the answers of a classifier here.
_NEUTRAL_PARAMETERS = ("truncation", "padding", "batch_size")
RESPONSE_TYPES = {
    **{media_type: media_type for media_type in (JSON, JSON_LINES, CSV, NPY)},
    "*/*": JSON,
    "application/*": JSON,
    "text/*": CSV,
}
# Content types of files by their endings; others are images or plain texts, as the model expects.
FILE_TYPES = {".csv": CSV, ".tsv": TSV, ".tab": TSV, ".json": JSON, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES}
# Aliases of content types, as used by training channels.
TYPE_ALIASES = {
    **dict.fromkeys(("application/x-jsonlines", "application/jsonl", "application/x-ndjson"), JSON_LINES),
    **dict.fromkeys(("application/csv", "csv"), CSV),
    **dict.fromkeys(("text/tsv", "tsv"), TSV),
    "application/x-text": PLAIN,
    **dict.fromkeys(
        ("application/octet-stream", "application/jpeg", "application/png", "image/*"), "application/x-image"
    ),
}
# Transposes that turn images of EXIF orientation 2, 3, … upright.
_TRANSPOSES = (
    *(Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM),
    *(Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90),
)
# Errors that Pillow's parsers raise for damaged content.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError),
    *(EOFError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)

Content = bytes | str | tuple[str, ...]
# Inputs of the model for one content: pixels `[3, size, size]`, or lists of token ids and masks.
Prepared = Mapping[str, Any]


class _ClientError(ValueError):
    """Client error with its HTTP status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def _toolkit_error(status: HTTPStatus, message: str) -> Exception:
    """Create the toolkit's error, which keeps its status; others become status 500 and clients retry."""
    try:
        from sagemaker_inference.errors import GenericInferenceToolkitError
    except ImportError:
        return _ClientError(status, message)
    error: Exception = GenericInferenceToolkitError(status.value, message, status.phrase)
    return error


@contextmanager
def _client_errors(status: HTTPStatus) -> Iterator[None]:
    """Convert a `ValueError`, a client error, to the toolkit's error with its status."""
    try:
        yield
    except ValueError as error:
        raise _toolkit_error(getattr(error, "status", status), str(error)) from None


_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Model:
    """The model, the content of `artifact.json`, the tokenizer of a text model, and the device."""

    module: nn.Module
    artifact: Mapping[str, Any]
    tokenizer: Any
    device: torch.device


@dataclass(frozen=True)
class Options:
    """Options of a request: number of returned classes, lowest probability of a predicted label, form of the answer.

    `top_ks` has a number of classes for each record, instead of `top_k`.
    """

    top_k: int | None = None
    min_confidence: float | None = None
    format: str | None = None
    top_ks: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Request:
    """Contents to classify; `single` if the response is one object rather than a list."""

    contents: Sequence[Content]
    single: bool
    options: Options = Options()


@dataclass(frozen=True)
class Predictions:
    """One JSON object per content of the request, in the same order; the options are applied by `output_fn`."""

    records: list[dict[str, Any]]
    single: bool
    options: Options = Options()
    artifact: Mapping[str, Any] = field(default_factory=dict)


def model_fn(model_dir: str) -> Model:
    """Load the artifact in `model_dir`, onto the GPU if there is one.

    Raises:
        ValueError: the folder contains no artifact, or one of an unsupported format.
    """
    folder = Path(model_dir)
    artifact = _read_artifact(folder)
    load = {"torchvision": _load_torchvision, "timm": _load_timm}.get(artifact["framework"], _load_transformers)
    module, tokenizer = load(folder, artifact)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # on a CPU up to twice as fast
    return Model(module.to(device).eval(), artifact, tokenizer, device)


def input_fn(body: bytes | str, content_type: str) -> Request:
    """Parse the contents of a request.

    Args:
        body: request body.
        content_type: case-insensitive MIME type; `charset` is its only supported parameter.

    Raises:
        ValueError: the content type is unknown, or the body does not match it; see the module docstring.
    """
    with _client_errors(HTTPStatus.BAD_REQUEST):
        media_type, *parameters = (part.strip().lower() for part in (content_type or "").split(";"))
        media_type = TYPE_ALIASES.get(media_type, media_type)
        if media_type not in (*IMAGE_TYPES, JSON, JSON_LINES, CSV, TSV, PLAIN):
            supported = (*IMAGE_TYPES, JSON, JSON_LINES, CSV, TSV, PLAIN)
            message = f"content type {content_type!r} is not supported; send one of {', '.join(supported)}"
            raise _ClientError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        if not body.strip():
            raise ValueError("the body is empty")
        if media_type in IMAGE_TYPES:
            return Request([body.encode("latin-1") if isinstance(body, str) else bytes(body)], single=True)
        return _parse(_decode_body(body, media_type, parameters), media_type)


def predict_fn(data: Request, model: Model) -> Predictions:
    """Classify the contents, in batches.

    Raises:
        ValueError: a content is of the wrong type for the model, or an image cannot be decoded; see the module
            docstring.
    """
    records: list[dict[str, Any]] = []
    for start in range(0, len(data.contents), BATCH_SIZE):
        records.extend(classify_fn(prepare_fn(data, model, start), model))
    return Predictions(records, data.single, data.options, model.artifact)


def prepare_fn(data: Request, model: Model, start: int = 0, count: int = BATCH_SIZE) -> list[Prepared]:
    """Preprocess `count` contents from `start` on, each on its own; may be called by several threads at once.

    Raises:
        ValueError: see `predict_fn`.
    """
    with _client_errors(HTTPStatus.BAD_REQUEST):
        return _prepare(data, start, count, model)


def classify_fn(prepared: Sequence[Prepared], model: Model) -> list[dict[str, Any]]:
    """Classify preprocessed contents, of one or several requests, in a single forward pass."""
    with torch.inference_mode():
        return _predictions(_logits(_collate(prepared, model), model), model.artifact)


def parse_options(values: Mapping[str, str]) -> Options:
    """Parse options by name.

    Raises:
        ValueError: an option is unknown or invalid; see the module docstring.
    """
    with _client_errors(HTTPStatus.BAD_REQUEST):
        if unknown := sorted(set(values) - {"top_k", "min_confidence", "format"}):
            raise ValueError(f"unknown options {', '.join(map(repr, unknown))}; use top_k, min_confidence or format")
        top_k, confidence, form = values.get("top_k"), values.get("min_confidence"), values.get("format")
        if form not in (None, *FORMS):
            raise ValueError(f"format={str(form)[:40]!r} must be one of {', '.join(FORMS)}")
        if top_k is not None and not (top_k.isascii() and top_k.isdecimal() and len(top_k) < 10 and int(top_k) > 0):
            raise ValueError(f"top_k={top_k[:20]!r} must be a whole number from 1 on")
        try:
            minimum = None if confidence is None else float(confidence)
        except ValueError:
            minimum = math.nan
        if minimum is not None and not 0 <= minimum <= 1:
            raise ValueError(f"min_confidence={(confidence or '')[:20]!r} must be a number from 0 to 1")
        return Options(None if top_k is None else int(top_k), minimum, form)


def apply_options(record: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return a record of `predict_fn` as the options request it."""
    labels, probabilities = record["labels"], record["probabilities"]
    changed = dict(record)
    if options.min_confidence is not None:
        confident = {name for name, value in zip(labels, probabilities, strict=True) if value >= options.min_confidence}
        if "predicted_labels" in record:
            changed["predicted_labels"] = [name for name in record["predicted_labels"] if name in confident]
        elif record["predicted_label"] not in confident:
            changed["predicted_label"] = None
    if options.top_k is not None:
        best = sorted(range(len(labels)), key=lambda index: -probabilities[index])[: options.top_k]
        changed["probabilities"] = [probabilities[index] for index in best]
        changed["labels"] = [labels[index] for index in best]
    return changed


def response_type(accept: str) -> str:
    """Return the first supported content type of `accept`.

    Raises:
        ValueError: none is supported; see the module docstring.
    """
    for accepted in (part.split(";")[0].strip().lower() for part in (accept or "*/*").split(",")):
        if media_type := RESPONSE_TYPES.get(TYPE_ALIASES.get(accepted, accepted)):
            return media_type
    message = f"accept {accept!r} is not supported; accept one of {JSON}, {JSON_LINES}, {CSV}, {NPY}"
    raise _toolkit_error(HTTPStatus.NOT_ACCEPTABLE, message)


def output_fn(prediction: Predictions, accept: str) -> str | bytes:
    """Serialize the predictions in the first supported format of `accept`.

    Raises:
        ValueError: no accepted format is supported or it does not support an option (see the module docstring), or a
            probability is not finite.
    """
    for index, record in enumerate(prediction.records):
        if not all(map(math.isfinite, record["probabilities"])):
            raise ValueError(f"the model's probabilities for {_record(index)} are not finite")
    media_type, options = response_type(accept), prediction.options
    if media_type == NPY:
        if options.top_k is not None or options.min_confidence is not None or any(options.top_ks):
            message = f"{NPY} contains probabilities only; omit top_k and min_confidence, or accept another type"
            raise _toolkit_error(HTTPStatus.BAD_REQUEST, message)
        file = io.BytesIO()
        np.save(file, np.array([record["probabilities"] for record in prediction.records], dtype=np.float32))
        return file.getvalue()
    if media_type in (JSON, JSON_LINES) and (form := _form(prediction, accept)) != PLAIN_FORM:
        return _in_form(prediction, form, lines=media_type == JSON_LINES)
    records = [apply_options(record, _of_record(options, index)) for index, record in enumerate(prediction.records)]
    if media_type == CSV and "verbose" in _parameters(accept):  # as JumpStart answers batch transform
        media_type = JSON_LINES
    if media_type == JSON:
        return _json(records[0] if prediction.single else records)
    if media_type == JSON_LINES:
        return "".join(_json(record) + "\n" for record in records)
    return _csv(records, options)


def _parameters(accept: str) -> list[str]:
    """Return the parameters of the accepted type, such as `verbose`."""
    return [part.strip().lower() for part in (accept or "").split(",")[0].split(";")[1:]]


def _form(prediction: Predictions, accept: str) -> str:
    """Return the form of the answer: that of the request, or else of the tool whose dialect the training job had."""
    options = prediction.options
    if "verbose" in _parameters(accept) or options.min_confidence is not None:
        return PLAIN_FORM
    form = options.format or str(prediction.artifact.get("dialect", PLAIN_FORM))
    has_top_k = options.top_k is not None or any(options.top_ks)
    return PLAIN_FORM if form not in FORMS or (has_top_k and form in (MXNET, *PROBABILITIES_ONLY)) else form


def _of_record(options: Options, index: int) -> Options:
    """Return the options of a record, which may have its own `top_k`."""
    own = options.top_ks[index] if options.top_ks else None
    return replace(options, top_k=options.top_k if own is None else own)


def _in_form(prediction: Predictions, form: str, *, lines: bool) -> str:
    """Serialize the predictions as another tool does."""
    answers = [_answer(prediction, index, form, lines=lines) for index in range(len(prediction.records))]
    if lines:
        return "".join(_json(answer) + "\n" for answer in answers)
    if form == BLAZINGTEXT:
        return _json(answers)
    if form == HUGGING_FACE and all(len(answer) == 1 for answer in answers) and not _has_top_k(prediction):
        return _json([answer[0] for answer in answers])
    return _json(answers[0] if prediction.single else answers)


def _has_top_k(prediction: Predictions) -> bool:
    return prediction.options.top_k is not None or any(prediction.options.top_ks)


def _answer(prediction: Predictions, index: int, form: str, *, lines: bool) -> Any:  # noqa: ANN401 - a JSON value
    record, top_k = prediction.records[index], _of_record(prediction.options, index).top_k
    if form == MXNET:
        return {"prediction": record["probabilities"]} if lines else record["probabilities"]
    if form in PROBABILITIES_ONLY:
        return {"probabilities": record["probabilities"]}
    if top_k is None:
        of_image = form == HUGGING_FACE and prediction.artifact.get("task") == "image-classification"
        top_k = IMAGE_TOP_K if of_image else 1
    best = apply_options(record, Options(top_k))
    if form == BLAZINGTEXT:
        return {"label": [f"__label__{label}" for label in best["labels"]], "prob": best["probabilities"]}
    pairs = zip(best["labels"], best["probabilities"], strict=True)
    return [{"label": label, "score": probability} for label, probability in pairs]


def decode_image(content: bytes, side: int = MAX_PIXELS, sixteen_bit_depth: int | None = None) -> Tensor:
    """Decode an image to RGB uint8 `[3, height, width]`, on white if transparent, upright according to its EXIF data.

    Raises:
        ValueError: the bytes are not a complete image of a known format, claim too many pixels, or contain 16-bit
            values that do not fit `sixteen_bit_depth` bits.
    """
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels exceed the maximum of {MAX_PIXELS:,}")
            image.draft(None, (2 * side, 2 * side))  # decode JPEG at 1/2, 1/4 or 1/8 if sufficient, as in training
            pixels = _pixels(image, content, sixteen_bit_depth)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _PILLOW_ERRORS as error:
        cause = "its format is unknown" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"the image cannot be decoded: {cause}") from error
    upright = (
        Image.fromarray(pixels).transpose(_TRANSPOSES[int(orientation) - 2]) if orientation in range(2, 9) else pixels
    )
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


def resize_and_crop(image: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """Resize the shorter side, or both, of uint8 `[3, height, width]`, antialiased, and crop the center square.

    Raises:
        ValueError: the image is so narrow that resizing it would result in too many pixels.
    """
    height, width = image.shape[-2:]
    resize, size, stretch = preprocessing["resize"], preprocessing["size"], preprocessing.get("stretch", False)
    if not stretch and resize**2 * max(height, width) > MAX_PIXELS * min(height, width):
        raise ValueError(f"an image of {width} x {height} pixels is too narrow to be resized to {resize}")
    sides, mode = [resize] * (2 if stretch else 1), InterpolationMode(preprocessing["interpolation"])
    resized = functional.resize(image, sides, mode, antialias=True)
    if preprocessing.get("floor_crop"):  # half of an odd margin is rounded down
        height, width = (side - max(0, side - size) % 2 for side in resized.shape[-2:])
        resized = resized[..., :height, :width]
    return functional.center_crop(resized, [size, size])  # type: ignore[no-any-return]  # untyped in torchvision


def _read_artifact(folder: Path) -> dict[str, Any]:
    path = folder / "artifact.json"
    if not path.is_file():
        raise ValueError(f"{folder} contains no artifact.json; deploy the model.tar.gz of a training job")
    artifact: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if artifact.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version={artifact.get('format_version')!r}, but this handler supports {FORMAT_VERSION}"
        )
    return artifact


def _load_torchvision(folder: Path, artifact: Mapping[str, Any]) -> tuple[nn.Module, None]:
    from safetensors.torch import load_file
    from torchvision.models import get_model

    module: nn.Module = get_model(artifact["architecture"], weights=None, **artifact["arguments"])
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module, None


def _load_timm(folder: Path, artifact: Mapping[str, Any]) -> tuple[nn.Module, None]:
    from safetensors.torch import load_file
    from timm import create_model

    module: nn.Module = create_model(artifact["architecture"], pretrained=False, **artifact["arguments"])
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module, None


def _load_transformers(folder: Path, artifact: Mapping[str, Any]) -> tuple[nn.Module, object]:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

    texts = artifact["task"] == "text-classification"
    if artifact["arguments"].get("pooling"):
        return _PooledClassifier(folder, artifact["arguments"]), AutoTokenizer.from_pretrained(folder)
    family = AutoModelForSequenceClassification if texts else AutoModelForImageClassification
    module = family.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    return module, AutoTokenizer.from_pretrained(folder, local_files_only=True) if texts else None


class _PooledClassifier(nn.Module):
    """Classifies pooled token states; the folder is one of sentence-transformers, with a classifier beside it."""

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        from safetensors.torch import load_file
        from transformers import AutoModel

        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self.modes, self.normalize = arguments["pooling"], arguments["normalize"]
        dense = [nn.Sequential(nn.Linear(i, o, bias=b), getattr(nn, name)()) for i, o, b, name in arguments["dense"]]
        for index, layer in enumerate(dense):
            tensors = load_file(folder / f"{index + 2}_Dense" / "model.safetensors")
            layer[0].load_state_dict({name.removeprefix("linear."): tensor for name, tensor in tensors.items()})
        head = load_file(folder / "classifier.safetensors")
        classes, width = head["classifier.weight"].shape
        self.classifier = nn.Linear(width, classes)
        self.classifier.load_state_dict({name.removeprefix("classifier."): value for name, value in head.items()})
        self.dense = nn.Sequential(*dense)

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> SimpleNamespace:
        states = self.encoder(attention_mask=attention_mask, **inputs)[0]
        vector = self.dense(torch.cat([_pool(states, attention_mask, mode) for mode in self.modes], dim=1))
        vector = nn.functional.normalize(vector, dim=1) * vector.shape[1] ** 0.5 if self.normalize else vector
        return SimpleNamespace(logits=self.classifier(vector))


def _pool(states: Tensor, mask: Tensor, mode: str) -> Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    if mode == "cls":
        return states[:, 0]
    if mode == "lasttoken":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    if mode == "max":
        return states.masked_fill(weights == 0, torch.finfo(states.dtype).min).amax(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def _decode_body(body: bytes | str, media_type: str, parameters: Iterable[str]) -> str:
    """Decode a body; the toolkit decodes some bodies itself and keeps the byte order mark."""
    if isinstance(body, str):
        return body.removeprefix("\ufeff")
    pairs = (parameter.partition("=") for parameter in parameters)
    charset = next((value.strip("\"' ") for name, _, value in pairs if name.strip() == "charset"), "utf-8")
    try:
        return bytes(body).decode(charset).removeprefix("\ufeff")
    except LookupError:
        raise _ClientError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"charset {charset!r} is not supported; send UTF-8"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is not {media_type} in {charset.upper()}: {error}") from error


def _parse(text: str, media_type: str) -> Request:
    if media_type == PLAIN:
        return Request([(text,)], single=True)
    try:
        if media_type == JSON:
            inputs, top_k = _inputs(json.loads(text))
            values = inputs if isinstance(inputs, list) else [inputs]
            single = values is not inputs
            return Request(_contents(values, single=single), single=single, options=Options(top_k))
        if media_type == JSON_LINES:
            lines = list(_json_lines(text))
            top_ks = tuple(top_k for _, top_k in lines)
            options = Options(top_ks=top_ks if any(top_ks) else ())
            return Request(_contents((value for value, _ in lines), single=False), single=False, options=options)
        return Request([tuple(row) for row in _rows(text, media_type) if row], single=False)
    except (json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise ValueError(f"the body is not {media_type}: {error}") from error


def _rows(text: str, media_type: str) -> Iterable[list[str]]:
    """Return rows of cells.

    A stray quotation mark is an error, since it would merge rows; only in lines with equal numbers of tabs is it a
    literal character, as in training.
    """
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if media_type == TSV and len({line.count("\t") for line in lines}) == 1:
        quoted = (line.split("\t") for line in lines)
        return [[c[1:-1].replace('""', '"') if c[:1] == c[-1:] == '"' and c[1:] else c for c in row] for row in quoted]
    return csv.reader(io.StringIO(text, newline=""), delimiter="\t" if media_type == TSV else ",", strict=True)


def _json_lines(text: str) -> Iterator[tuple[object, int | None]]:
    for index, line in enumerate(line for line in text.split("\n") if line.strip()):
        try:
            value = _inputs(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{_record(index)}: the body is not {JSON_LINES}: {error}") from error
        yield value


def _inputs(value: object) -> tuple[object, int | None]:
    """Return the inputs of a body in the form of any tool, and its number of classes to return."""
    if not isinstance(value, dict):
        return value, None
    name = next((name for name in ("inputs", "instances", "source") if name in value), None)
    if name is None:
        return value, None
    options = value.get({"inputs": "parameters", "instances": "configuration"}.get(name, "")) or {}
    if not isinstance(options, dict):
        raise ValueError(f"the options besides {name!r} must be a JSON object")
    options = {**options, **({"k": value["k"]} if name == "source" and "k" in value else {})}
    known = {"inputs": {"parameters"}, "instances": {"configuration"}, "source": {"k"}}[name]
    # Reject unsupported options instead of ignoring them silently.
    unknown = [key for key, content in value.items() if key != name and key not in known and content]
    unknown += [key for key, content in options.items() if key not in ("k", "top_k", *_NEUTRAL_PARAMETERS) and content]
    if unknown:
        raise ValueError(f"unknown fields besides {name!r}: {', '.join(map(repr, unknown))}; remove them")
    top_k = options.get("top_k", options.get("k"))
    return value[name], None if top_k is None else parse_options({"top_k": str(top_k)}).top_k


def _contents(values: Iterable[object], *, single: bool) -> list[Content]:
    contents = []
    for index, value in enumerate(values):
        try:
            contents.append(_content(value))
        except ValueError as error:
            raise ValueError(str(error) if single else f"{_record(index)}: {error}") from error
    return contents


def _content(value: object) -> Content:
    texts: tuple[Any, ...] = (value,)
    if isinstance(value, dict) and "text" in value:
        texts = tuple(value[key] for key in ("text", "text_pair") if key in value)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('each input must be a string or {"text": "...", "text_pair": "..."}')
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise ValueError("the text contains a lone surrogate character")
    return value if isinstance(value, str) else texts


def _record(index: int) -> str:
    return f"record {index} (counted from 0)"


def _prepare(data: Request, start: int, count: int, model: Model) -> list[Prepared]:
    """Preprocess `count` contents from `start` on; errors name the index of the record."""
    prepare = _prepare_images if model.tokenizer is None else _prepare_texts
    contents = data.contents[start : start + count]
    try:
        return prepare(contents, model)
    except ValueError:
        if data.single:
            raise
        for index, content in enumerate(contents, start):
            try:
                prepare([content], model)
            except ValueError as error:
                raise ValueError(f"{_record(index)}: {error}") from error
        raise


def _prepare_images(contents: Sequence[Content], model: Model) -> list[Prepared]:
    """Preprocess images as in training: float32 `[3, size, size]`."""
    preprocessing = model.artifact["preprocessing"]
    # Nearest-neighbor interpolation picks single pixels, so the image must be decoded at full size.
    side = MAX_PIXELS if preprocessing["interpolation"].startswith("nearest") else preprocessing["resize"]
    depth = preprocessing.get("sixteen_bit_depth")
    mean, std = (torch.tensor(preprocessing[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))
    images = (decode_image(_image_bytes(item), side, depth) for item in contents)
    pixels = (resize_and_crop(image, preprocessing).to(torch.float32) for image in images)
    return [{"pixel_values": (image / 255 - mean) / std} for image in pixels]


def _image_bytes(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    if not isinstance(content, str):
        raise ValueError("this model expects images; send their bytes, or base64 strings as JSON")
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"an image in JSON must be a base64 string: {error}") from error


def _prepare_texts(contents: Sequence[Content], model: Model) -> list[Prepared]:
    """Tokenize to lists of ids and masks, without padding."""
    count, length = (model.artifact["preprocessing"][name] for name in ("texts_per_record", "max_length"))
    texts = [(content,) if isinstance(content, str) else content for content in contents]
    for item in texts:
        if isinstance(item, bytes) or len(item) != count:
            raise ValueError(f"this model expects {count} text(s) per record, as JSON or CSV; quote commas in CSV")
        if not any(text.strip() for text in item):
            raise ValueError("the text is empty")
    columns = [[str(text) for text in column] for column in zip(*texts, strict=True)]
    tokens = model.tokenizer(*columns, truncation=True, max_length=length)
    if not all(map(any, tokens["attention_mask"])):
        raise ValueError("the text has no tokens")
    return [dict(zip(tokens, values, strict=True)) for values in zip(*tokens.values(), strict=True)]


def _collate(prepared: Sequence[Prepared], model: Model) -> dict[str, Tensor]:
    """Combine contents to a batch, `[batch, ...]`; texts are padded to the longest."""
    if model.tokenizer is None:
        return {"pixel_values": torch.stack([item["pixel_values"] for item in prepared])}
    return dict(model.tokenizer.pad(list(prepared), return_tensors="pt"))


def _logits(batch: Mapping[str, Tensor], model: Model) -> Tensor:
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    plain = model.artifact["framework"] != "transformers"
    logits: Tensor = model.module(*inputs.values()) if plain else model.module(**inputs).logits
    return logits.to(torch.float32)


def _pixels(image: Any, content: bytes, known_depth: int | None) -> NDArray[np.uint8]:  # noqa: ANN401 - plugins add attributes
    """Return RGB pixels, uint8 `[height, width, 3]`; for 16-bit grayscale, the highest 8 of the used bits."""
    # Before version 11, Pillow opened 16-bit PNG with mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image)
        highest, depth = int(values.max()), known_depth or 16
        if highest >> depth or 0 < highest < 1 << (depth - 8 if known_depth else depth - 4):
            raise ValueError(
                f"16-bit values up to {highest}, but the range of this model's images is 0 to {2**depth - 1}"
            )
        return np.repeat((values >> (depth - 8)).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit or signed pixels have no defined range; save the image with 8 or 16 bits")
    is_16_bit = content[24:25] == b"\x10" if image.format == "PNG" else False
    if image.format == "PPM":
        is_16_bit = any(isinstance(value, int) and value > 255 for value in image.tile[0][3])
    if image.format == "TIFF":
        is_16_bit = max(image.tag_v2.get(258, (8,))) == 16
    if is_16_bit:
        extrema = image.getextrema() if len(image.getbands()) > 1 else (image.getextrema(),)
        if max(high for (_, high), name in zip(extrema, image.getbands(), strict=True) if name != "A") < 1 << 4:
            raise ValueError("16 bits per colour, but almost no value above 4095; save it with 8 bits per colour")
    # Pillow treats every CMYK JPEG as Adobe's, which are inverted.
    inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
    image.load()
    rows = max(1, BAND_PIXELS // image.width)
    if rows >= image.height:
        return np.array(_to_rgb(image, inverted))
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(_to_rgb(band, inverted))
    return pixels


def _to_rgb(image: Image.Image, inverted: bool) -> Image.Image:
    if inverted:
        return ImageChops.invert(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _predictions(logits: Tensor, artifact: Mapping[str, Any]) -> list[dict[str, Any]]:
    labels, multi_label = artifact["labels"], artifact["multi_label"]
    key = "predicted_labels" if multi_label else "predicted_label"
    thresholds = artifact.get("thresholds") or [THRESHOLD] * len(labels)
    logits = logits / artifact.get("temperature", 1.0)  # of calibrated models
    records: list[dict[str, Any]] = []
    for row in (logits.sigmoid() if multi_label else logits.softmax(dim=-1)).tolist():
        margins = [value - threshold for value, threshold in zip(row, thresholds, strict=True)]
        predicted = [name for name, value in zip(labels, margins, strict=True) if value > 0]
        best = labels[margins.index(max(margins))]
        records.append({"probabilities": row, "labels": labels, key: predicted if multi_label else best})
    return records


def _csv(records: Sequence[Mapping[str, Any]], options: Options) -> str:
    lines = io.StringIO(newline="")
    for record in records:
        first = _json(record["predicted_labels"]) if "predicted_labels" in record else record["predicted_label"]
        cells = record["probabilities"]
        if options.top_k is not None:
            cells = [cell for pair in zip(record["labels"], record["probabilities"], strict=True) for cell in pair]
        csv.writer(lines, lineterminator="\n").writerow([first, *cells])
    return lines.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify files, print a JSON object per image or text, and return the exit code: 1 if a file failed."""
    parser = argparse.ArgumentParser(
        description="Classify images, or the texts of CSV, TSV, JSON and plain text files."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--top-k", help="number of most probable classes to print")
    parser.add_argument("--min-confidence", help="lowest probability of a predicted label, from 0 to 1")
    values = parser.parse_args(arguments)
    chosen = {"top_k": values.top_k, "min_confidence": values.min_confidence}
    try:
        options = parse_options({name: value for name, value in chosen.items() if value is not None})
        model = model_fn(str(Path(__file__).resolve().parent.parent))
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    for path in values.files:
        default = IMAGE_TYPES[0] if model.tokenizer is None else PLAIN
        try:
            request = input_fn(path.read_bytes(), FILE_TYPES.get(path.suffix.lower(), default))
            predictions = predict_fn(request, model)
            lines = output_fn(replace(predictions, options=replace(options, format=PLAIN_FORM)), JSON_LINES)
        except Exception as error:  # noqa: BLE001 - the toolkit's errors have no common type, and other files follow
            print(f"{path}: {error}", file=sys.stderr)  # noqa: T201
            failed += 1
            continue
        assert isinstance(lines, str)  # noqa: S101 - the type of JSON Lines
        for line in lines.split("\n")[:-1]:
            print(_json({"input": str(path), **json.loads(line)}))  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
