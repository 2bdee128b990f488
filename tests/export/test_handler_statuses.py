"""Client errors have a status below 500 and name the record; model errors have status 500."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from finetune.config.content_types import IMAGE_FORMATS, TEXT_FORMATS
from finetune.export.inference import Model, Predictions, Request, input_fn, output_fn, predict_fn
from tests.support.artifact_images import encode_image, make_image


class ToolkitError(Exception):
    """As in sagemaker_inference.errors, where it is no ValueError."""

    def __init__(self, status_code: int, message: str | None = None, phrase: str | None = None) -> None:
        super().__init__(status_code, message, phrase)
        self.status_code, self.message, self.phrase = status_code, message, phrase


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of AWS's toolkit that a handler sees; tests/serving uses the real one."""
    package, errors = ModuleType("sagemaker_inference"), ModuleType("sagemaker_inference.errors")
    errors.GenericInferenceToolkitError = ToolkitError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sagemaker_inference", package)
    monkeypatch.setitem(sys.modules, "sagemaker_inference.errors", errors)


class FixedLogits(nn.Module):
    """Two classes by mean brightness."""

    def forward(self, pixels: Tensor) -> Tensor:
        mean = pixels.mean(dim=(1, 2, 3))
        return torch.stack([mean, -mean], dim=1)


class Tokenizer:
    """A tokenizer with one token per word."""

    def __call__(self, *columns: list[str], **options: object) -> dict[str, list[list[int]]]:
        return {"attention_mask": [[len(text.split()) + 1] for text in columns[0]]}

    def pad(self, encoded: list[dict[str, list[int]]], **options: object) -> dict[str, Tensor]:
        return {"attention_mask": torch.tensor([item["attention_mask"] for item in encoded])}


def image_model() -> Model:
    plain = {"size": 8, "resize": 8, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    artifact = {"framework": "torchvision", "preprocessing": plain, "labels": ["light", "dark"], "multi_label": False}
    return Model(FixedLogits(), artifact, None, torch.device("cpu"))


def text_model(count: int = 1) -> Model:
    plain = {"texts_per_record": count, "max_length": 8}
    artifact = {"framework": "torchvision", "preprocessing": plain, "labels": ["a", "b"], "multi_label": False}
    return Model(nn.Identity(), artifact, Tokenizer(), torch.device("cpu"))


def respond(body: bytes | str, content_type: str, model: Model, accept: str = "application/json") -> str | bytes:
    return output_fn(predict_fn(input_fn(body, content_type), model), accept)


IMAGE = b64encode(encode_image(make_image(1))).decode()
JSON, LINES = "application/json", "application/jsonlines"
REFUSED: dict[str, tuple[bytes, str, Model, int, str]] = {
    "unknown type": (b"x", "application/x-npy", image_model(), 415, "content type 'application/x-npy'"),
    "no type": (b"x", "", image_model(), 415, "content type '' is not supported"),
    "unknown charset": (b"x", "text/plain; charset=klingon", text_model(), 415, "charset 'klingon' is not supported"),
    "charset of bytes": (b"x", "text/plain; charset=hex", text_model(), 415, "charset 'hex' is not supported"),
    "no JSON": (b"{", JSON, image_model(), 400, "the body is not application/json"),
    "two objects as JSON": (b'{"inputs": "a"}\n{"inputs": "b"}', JSON, text_model(), 400, "the body is not appl"),
    "deep JSON": (b"[" * 100_000, JSON, image_model(), 400, "the body is not application/json"),
    "a long number": (b"1" * 5000, JSON, image_model(), 400, "Exceeds the limit"),
    "empty JSON": (b"", JSON, image_model(), 400, "the body is empty"),
    "empty lines": (b"\n\n", LINES, text_model(), 400, "the body is empty"),
    "empty image": (b"", "image/png", image_model(), 400, "the body is empty"),
    "empty text": (b'["a", ""]', JSON, text_model(), 400, "record 1 (counted from 0): the text is empty"),
    "wrong encoding": (b"\xe9", "text/plain", text_model(), 400, "the body is not text/plain in UTF-8"),
    "a line that is no JSON": (b'"a"\n\n{\n', LINES, text_model(), 400, "record 1 (counted from 0): the body is not"),
    "a missing field": (b'["a", {"words": "b"}]', JSON, text_model(), 400, "record 1 (counted from 0): each input"),
    "a field that nothing reads": (
        b'{"inputs": "a", "parameters": {"function": 3}}', JSON, text_model(), 400, "unknown fields besides 'inputs'",
    ),
    "a number": (b'{"inputs": [1]}', JSON, text_model(), 400, "record 0 (counted from 0): each input must be a string"),
    "null": (b'{"text": null}', JSON, text_model(), 400, "each input must be a string"),
    "half a character": (b'["a", "\\ud800"]', JSON, text_model(), 400, "record 1 (counted from 0): the text contains"),
    "wrong columns": (b"a\nb,c\n", "text/csv", text_model(), 400, "record 1 (counted from 0): this model expects"),
    "wrong columns as TSV": (b"a\tb\nc\td\n", "tsv", text_model(), 400, "record 0 (counted from 0): this model"),
    "a lost quotation mark": (b'"a\nb\n', "text/csv", text_model(), 400, "the body is not text/csv"),
    "half a pair": (b'[{"text": "a"}]', JSON, text_model(2), 400, "record 0 (counted from 0): this model expects 2"),
    "a text for images": (b"a text", "text/plain", image_model(), 400, "this model expects images"),
    "an image for texts": (encode_image(make_image(1)), "image/png", text_model(), 400, "this model expects"),
    "no image": (b"no image", "image/png", image_model(), 400, "the image cannot be decoded"),
    "a damaged image in the second batch": (
        json.dumps([IMAGE] * 40 + ["bm8gcGljdHVyZQ=="]).encode(), JSON, image_model(), 400,
        "record 40 (counted from 0): the image cannot be decoded",
    ),
    "no base64": (json.dumps([IMAGE, "?"]).encode(), JSON, image_model(), 400, "record 1 (counted from 0): an image"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "model", "status", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.usefixtures("toolkit")
def test_bad_requests_have_a_client_status_and_name_the_record(
    body: bytes, kind: str, model: Model, status: int, message: str
) -> None:
    with pytest.raises(ToolkitError) as caught:
        respond(body, kind, model)
    assert caught.value.status_code == status
    assert caught.value.message is not None
    assert message in caught.value.message
    assert caught.value.phrase in {"Bad Request", "Unsupported Media Type"}
    # The toolkit sends the traceback to the client, so it must be short.
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("body", "kind", "model", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_errors_are_value_errors_without_the_toolkit(
    body: bytes, kind: str, model: Model, status: int, message: str
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        respond(body, kind, model)
    assert message in str(caught.value)
    assert getattr(caught.value, "status", None) == status


@pytest.mark.usefixtures("toolkit")
def test_unsupported_accept_types_have_status_406() -> None:
    with pytest.raises(ToolkitError) as caught:
        output_fn(Predictions([], single=False), "image/png")
    assert (caught.value.status_code, caught.value.phrase) == (406, "Not Acceptable")


@pytest.mark.usefixtures("toolkit")
@pytest.mark.parametrize("accept", [JSON, LINES, "text/csv"])
def test_non_finite_predictions_are_server_errors(accept: str) -> None:
    model = image_model()
    broken = Model(model.module, {**model.artifact, "preprocessing": {
        **model.artifact["preprocessing"], "std": [float("nan")] * 3,
    }}, None, model.device)  # fmt: skip
    body = json.dumps([IMAGE]).encode()
    with pytest.raises(ValueError, match="probabilities for record 0"):
        respond(body, JSON, broken, accept)


ONE = Request([("x",)], single=False)


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ('"x"\n', "application/x-jsonlines", Request(["x"], single=False)),
        ('"x"\n', "application/jsonl", Request(["x"], single=False)),
        ('"x"\n', "application/x-ndjson", Request(["x"], single=False)),
        ("x\n", "application/csv", ONE),
        ("x\n", "CSV", ONE),
        ("x\n", "Text/CSV; Charset=UTF-8; header=absent", ONE),
        ("x\ty\r\nz\t\"a\"\n", "text/tab-separated-values", Request([("x", "y"), ("z", "a")], single=False)),
        ("say \"x\"\n", "text/tsv", Request([('say "x"',)], single=False)),
        ('"x\ty"\tz\nv\tw\n', "TSV", Request([("x\ty", "z"), ("v", "w")], single=False)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_bytes", [True, False])
def test_content_types_have_the_names_of_channels(body: str, kind: str, expected: Request, *, as_bytes: bool) -> None:
    assert input_fn(body.encode() if as_bytes else body, kind) == expected


def test_request_charset_is_used() -> None:
    assert input_fn("é".encode("latin-1"), "text/plain; charset=iso-8859-1") == Request([("é",)], single=True)
    assert input_fn("é".encode("utf-16"), 'text/plain; charset="UTF-16"') == Request([("é",)], single=True)


def test_decoded_byte_order_mark_is_removed() -> None:
    assert input_fn("\ufeffx\n", "text/csv") == ONE
    assert input_fn('\ufeff{"inputs": "x"}', JSON) == Request(["x"], single=True)


@pytest.mark.parametrize("accept", ["application/x-jsonlines", "application/jsonl; q=0.9"])
def test_accept_types_have_the_same_aliases(accept: str) -> None:
    record = {"probabilities": [1.0], "labels": ["a"], "predicted_label": "a"}
    assert json.loads(output_fn(Predictions([record], single=True), accept)) == record


def test_other_fields_of_a_record_are_ignored() -> None:
    assert input_fn('[{"text": "x", "label": "a"}]', JSON) == ONE
    assert input_fn('{"inputs": "x", "parameters": {}}', JSON) == Request(["x"], single=True)


def test_handler_supports_all_text_content_types_of_channels() -> None:
    # Parquet is a columnar file format, and not a request format.
    bodies = {"jsonl": '{"text": "x"}', "csv": "x", "tsv": "x"}
    for name, form in TEXT_FORMATS.items():
        if form in bodies:
            assert input_fn(bodies[form], name).contents == [("x",)], name


def test_handler_supports_all_image_content_types_of_channels() -> None:
    for name in IMAGE_FORMATS:
        assert input_fn(b"x", name).contents == [b"x"]
