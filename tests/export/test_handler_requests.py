"""The handler's parsing of requests, its answers and its errors."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.export.inference import (
    Model,
    Predictions,
    Request,
    classify_fn,
    input_fn,
    model_fn,
    output_fn,
    predict_fn,
    prepare_fn,
    response_type,
)
from tests.support.artifact_images import encode_image, make_image

ONE, TWO = (
    {"probabilities": [0.75, 0.25], "labels": ["a", "b, c"]},
    {"probabilities": [0.125, 0.875], "labels": ["a", "b, c"]},
)
RECORDS = [{**ONE, "predicted_label": "a"}, {**TWO, "predicted_label": "b, c"}]

UNDERSTOOD = {
    "a string": ('{"inputs": "é"}', "application/json", Request(["é"], single=True)),
    "a bare string": ('"é"', "application/json", Request(["é"], single=True)),
    "a list": ('{"inputs": ["x", "y"]}', "application/json", Request(["x", "y"], single=False)),
    "a list of one": ('["x"]', "application/json", Request(["x"], single=False)),
    "an empty list": ("[]", "application/json", Request([], single=False)),
    "a text": ('{"inputs": {"text": "x"}}', "application/json", Request([("x",)], single=True)),
    "a pair": ('{"inputs": {"text": "x", "text_pair": "y"}}', "application/json", Request([("x", "y")], single=True)),
    "a bare pair": ('{"text": "x", "text_pair": "y"}', "application/json", Request([("x", "y")], single=True)),
    "pairs": ('[{"text": "x", "text_pair": "y"}]', "application/json", Request([("x", "y")], single=False)),
    "lines": ('{"inputs": "x"}\n\n"y\\u2028z"\r\n', "application/jsonlines", Request(["x", "y\u2028z"], single=False)),
    "rows": ('"x ""1"", 2"\n\ny\n', "text/csv", Request([('x "1", 2',), ("y",)], single=False)),
    "rows of pairs": ("x,y\r\n", "Text/CSV; header=absent", Request([("x", "y")], single=False)),
    "plain text": ("x, y\nz", "text/plain", Request([("x, y\nz",)], single=True)),
}
REFUSED = {
    "another type": ("x", "application/x-npy", "content type 'application/x-npy' is not supported; send one of appl"),
    "no JSON": ("{", "application/json", "the body is not application/json"),
    "a number": ('{"inputs": [1]}', "application/json", "each input must be a string or"),
    "null": ("null", "application/json", "each input must be a string or"),
    "no text": ('{"inputs": {"label": "x"}}', "application/json", "each input must be a string or"),
    "half a pair": ('{"inputs": {"text_pair": "x"}}', "application/json", "each input must be a string or"),
    "no CSV": ('"' + "x" * 200_000 + '"', "text/csv", "the body is not text/csv"),
    "a list in a line": ('["x"]\n', "application/jsonlines", "each input must be a string or"),
}


@pytest.mark.parametrize(("body", "content_type", "expected"), UNDERSTOOD.values(), ids=UNDERSTOOD)
@pytest.mark.parametrize("as_bytes", [True, False])
def test_requests_are_parsed(body: str, content_type: str, expected: Request, *, as_bytes: bool) -> None:
    assert input_fn(body.encode() if as_bytes else body, content_type) == expected


def test_byte_order_mark_is_removed() -> None:
    assert input_fn(b"\xef\xbb\xbfx\n", "text/csv") == Request([("x",)], single=False)


@pytest.mark.parametrize(("body", "content_type", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_requests_are_refused(body: str, content_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        input_fn(body.encode(), content_type)


def test_body_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ValueError, match="not text/plain in UTF-8"):
        input_fn("é".encode("latin-1"), "text/plain")


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", "text/html, application/json;q=0.9"])
def test_predictions_are_serialized_as_json(accept: str) -> None:
    assert json.loads(output_fn(Predictions(RECORDS[:1], single=True), accept)) == RECORDS[0]
    assert json.loads(output_fn(Predictions(RECORDS, single=False), accept)) == RECORDS
    assert json.loads(output_fn(Predictions(RECORDS[:1], single=False), accept)) == RECORDS[:1]


def test_predictions_are_serialized_as_json_lines_or_csv() -> None:
    lines = output_fn(Predictions(RECORDS, single=False), "application/jsonlines")
    assert [json.loads(line) for line in lines.splitlines()] == RECORDS
    assert output_fn(Predictions(RECORDS, single=False), "text/csv") == 'a,0.75,0.25\n"b, c",0.125,0.875\n'
    several = {**ONE, "predicted_labels": ["a"]}
    assert output_fn(Predictions([several], single=True), "text/csv") == '"[""a""]",0.75,0.25\n'


def test_unsupported_accept_type_is_refused() -> None:
    with pytest.raises(ValueError, match="accept 'image/png' is not supported; accept one of application/json"):
        output_fn(Predictions(RECORDS, single=False), "image/png")


def test_non_finite_predictions_are_not_serialized() -> None:
    record = {"probabilities": [float("nan")], "labels": ["a"], "predicted_label": "a"}
    for accept in ("application/json", "application/jsonlines", "text/csv"):
        with pytest.raises(ValueError, match=r"record 0 .* are not finite"):
            output_fn(Predictions([record], single=True), accept)


class Brightness(nn.Module):
    """Two classes by mean brightness; records the batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.batches.append(len(pixels))
        mean = pixels.mean(dim=(1, 2, 3))
        return torch.stack([mean, -mean], dim=1)


def brightness_model() -> tuple[Model, Brightness]:
    module = Brightness()
    plain = {"size": 8, "resize": 8, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    artifact = {"framework": "torchvision", "preprocessing": plain, "labels": ["light", "dark"], "multi_label": False}
    return Model(module, artifact, None, torch.device("cpu")), module


def test_many_images_are_classified_in_batches_and_in_order() -> None:
    model, module = brightness_model()
    shades = [(37 * i) % 256 for i in range(70)]
    contents = [encode_image(make_image(0, "L").point(lambda _, shade=shade: shade)) for shade in shades]
    predictions = predict_fn(Request(contents, single=False), model)
    assert module.batches == [32, 32, 6]
    assert [record["predicted_label"] for record in predictions.records] == [
        "light" if s > 127 else "dark" for s in shades
    ]


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"no picture", "image/png", "the image cannot be decoded"),
        (b'{"inputs": "no base64!"}', "application/json", "must be a base64 string"),
        (b'{"inputs": "bm8gcGljdHVyZQ=="}', "application/json", "the image cannot be decoded"),
        (b"a text", "text/plain", "this model expects images"),
    ],
)
def test_invalid_images_are_refused(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict_fn(input_fn(body, content_type), brightness_model()[0])


def test_narrow_image_is_refused() -> None:
    model = brightness_model()[0]
    preprocessing = {**model.artifact["preprocessing"], "resize": 2000, "size": 2000}
    huge = Model(model.module, {**model.artifact, "preprocessing": preprocessing}, None, model.device)
    narrow = encode_image(make_image(0, "L", (3, 1000)))
    with pytest.raises(ValueError, match="3 x 1000 pixels is too narrow"):
        predict_fn(input_fn(narrow, "image/png"), huge)


def test_folder_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path} contains no artifact"):
        model_fn(str(tmp_path))


def test_unknown_format_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "artifact.json").write_text('{"format_version": 7}', encoding="utf-8")
    with pytest.raises(ValueError, match="format_version=7, but this handler supports 1"):
        model_fn(str(tmp_path))


def test_predictions_are_serialized_as_npy() -> None:
    content = output_fn(Predictions(RECORDS, single=False), "application/x-npy")
    assert isinstance(content, bytes)
    array = np.load(io.BytesIO(content), allow_pickle=False)
    assert (array.dtype, array.tolist()) == (np.float32, [[0.75, 0.25], [0.125, 0.875]])


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", "application/json"), ("image/png, text/*", "text/csv"), ("application/x-ndjson", "application/jsonlines")],
)
def test_response_type_is_the_first_supported_one(accept: str, expected: str) -> None:
    assert response_type(accept) == expected


def test_requests_can_share_a_batch() -> None:
    model, module = brightness_model()
    requests = [Request([encode_image(make_image(seed, "L"))], single=True) for seed in range(3)]
    prepared = [item for request in requests for item in prepare_fn(request, model)]
    shared = classify_fn(prepared, model)
    assert module.batches == [3]
    assert shared == [predict_fn(request, model).records[0] for request in requests]
