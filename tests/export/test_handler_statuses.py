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
from tests.support.artifact_images import encoded, picture


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


class Network(nn.Module):
    """Two classes by mean brightness."""

    def forward(self, pixels: Tensor) -> Tensor:
        mean = pixels.mean(dim=(1, 2, 3))
        return torch.stack([mean, -mean], dim=1)


class Tokenizer:
    """A tokenizer with one token per word."""

    def __call__(self, *columns: list[str], **options: object) -> dict[str, Tensor]:
        return {"attention_mask": torch.tensor([[len(text.split()) + 1] for text in columns[0]])}


def of_images() -> Model:
    plain = {"size": 8, "resize": 8, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    artifact = {"framework": "torchvision", "preprocessing": plain, "labels": ["light", "dark"], "multi_label": False}
    return Model(Network(), artifact, None, torch.device("cpu"))


def of_texts(count: int = 1) -> Model:
    plain = {"texts_per_record": count, "max_length": 8}
    artifact = {"framework": "torchvision", "preprocessing": plain, "labels": ["a", "b"], "multi_label": False}
    return Model(nn.Identity(), artifact, Tokenizer(), torch.device("cpu"))


def answered(body: bytes | str, content_type: str, model: Model, accept: str = "application/json") -> str:
    return output_fn(predict_fn(input_fn(body, content_type), model), accept)


IMAGE = b64encode(encoded(picture(1))).decode()
JSON, LINES = "application/json", "application/jsonlines"
REFUSED: dict[str, tuple[bytes, str, Model, int, str]] = {
    "unknown type": (b"x", "application/x-npy", of_images(), 415, "content type 'application/x-npy' is not supported"),
    "no type": (b"x", "", of_images(), 415, "content type '' is not supported"),
    "unknown charset": (b"x", "text/plain; charset=klingon", of_texts(), 415, "charset 'klingon' is not supported"),
    "charset of bytes": (b"x", "text/plain; charset=hex", of_texts(), 415, "charset 'hex' is not supported"),
    "no JSON": (b"{", JSON, of_images(), 400, "the body is not application/json"),
    "two objects as JSON": (b'{"inputs": "a"}\n{"inputs": "b"}', JSON, of_texts(), 400, "the body is not appl"),
    "deep JSON": (b"[" * 100_000, JSON, of_images(), 400, "the body is not application/json"),
    "a long number": (b"1" * 5000, JSON, of_images(), 400, "Exceeds the limit"),
    "empty JSON": (b"", JSON, of_images(), 400, "the body is empty"),
    "empty lines": (b"\n\n", LINES, of_texts(), 400, "the body is empty"),
    "empty image": (b"", "image/png", of_images(), 400, "the body is empty"),
    "empty text": (b'["a", ""]', JSON, of_texts(), 400, "record 1 (counted from 0): the text is empty"),
    "wrong encoding": (b"\xe9", "text/plain", of_texts(), 400, "the body is not text/plain in UTF-8"),
    "a line that is no JSON": (b'"a"\n\n{\n', LINES, of_texts(), 400, "record 1 (counted from 0): the body is not app"),
    "a missing field": (b'["a", {"words": "b"}]', JSON, of_texts(), 400, "record 1 (counted from 0): each input"),
    "a field that nothing reads": (
        b'{"inputs": "a", "parameters": {"top_k": 3}}', JSON, of_texts(), 400, "unknown fields beside 'inputs': 'param",
    ),
    "a number": (b'{"inputs": [1]}', JSON, of_texts(), 400, "record 0 (counted from 0): each input must be a string"),
    "null": (b'{"text": null}', JSON, of_texts(), 400, "each input must be a string"),
    "half a character": (b'["a", "\\ud800"]', JSON, of_texts(), 400, "record 1 (counted from 0): a text holds half"),
    "wrong columns": (b"a\nb,c\n", "text/csv", of_texts(), 400, "record 1 (counted from 0): this model expects"),
    "wrong columns as TSV": (b"a\tb\nc\td\n", "tsv", of_texts(), 400, "record 0 (counted from 0): this model expects"),
    "a lost quotation mark": (b'"a\nb\n', "text/csv", of_texts(), 400, "the body is not text/csv"),
    "half a pair": (b'[{"text": "a"}]', JSON, of_texts(2), 400, "record 0 (counted from 0): this model expects 2 text"),
    "a text for images": (b"a text", "text/plain", of_images(), 400, "this model classifies pictures"),
    "an image for texts": (encoded(picture(1)), "image/png", of_texts(), 400, "this model expects"),
    "no image": (b"no image", "image/png", of_images(), 400, "the picture cannot be decoded"),
    "a damaged image in the second batch": (
        json.dumps([IMAGE] * 40 + ["bm8gcGljdHVyZQ=="]).encode(), JSON, of_images(), 400,
        "record 40 (counted from 0): the picture cannot be decoded",
    ),
    "no base64": (json.dumps([IMAGE, "?"]).encode(), JSON, of_images(), 400, "record 1 (counted from 0): a picture"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "model", "status", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.usefixtures("toolkit")
def test_bad_requests_have_a_client_status_and_name_the_record(
    body: bytes, kind: str, model: Model, status: int, message: str
) -> None:
    with pytest.raises(ToolkitError) as caught:
        answered(body, kind, model)
    assert caught.value.status_code == status
    assert caught.value.message is not None
    assert message in caught.value.message
    assert caught.value.phrase in {"Bad Request", "Unsupported Media Type"}
    # The toolkit sends the traceback to the client, so it must be short.
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("body", "kind", "model", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_without_the_toolkit_they_are_value_errors(
    body: bytes, kind: str, model: Model, status: int, message: str
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        answered(body, kind, model)
    assert message in str(caught.value)


@pytest.mark.usefixtures("toolkit")
def test_types_that_are_not_accepted_have_status_406() -> None:
    with pytest.raises(ToolkitError) as caught:
        output_fn(Predictions([], single=False), "image/png")
    assert (caught.value.status_code, caught.value.phrase) == (406, "Not Acceptable")


@pytest.mark.usefixtures("toolkit")
@pytest.mark.parametrize("accept", [JSON, LINES, "text/csv"])
def test_an_answer_that_is_no_number_is_the_fault_of_the_model(accept: str) -> None:
    model = of_images()
    broken = Model(model.module, {**model.artifact, "preprocessing": {
        **model.artifact["preprocessing"], "std": [float("nan")] * 3,
    }}, None, model.device)  # fmt: skip
    body = json.dumps([IMAGE]).encode()
    with pytest.raises(ValueError, match="answer to record 0"):
        answered(body, JSON, broken, accept)


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
def test_content_types_have_the_names_that_channels_have(
    body: str, kind: str, expected: Request, *, as_bytes: bool
) -> None:
    assert input_fn(body.encode() if as_bytes else body, kind) == expected


def test_the_charset_of_the_request_is_obeyed() -> None:
    assert input_fn("é".encode("latin-1"), "text/plain; charset=iso-8859-1") == Request([("é",)], single=True)
    assert input_fn("é".encode("utf-16"), 'text/plain; charset="UTF-16"') == Request([("é",)], single=True)


def test_a_byte_order_mark_that_the_toolkit_has_decoded_is_no_part_of_the_text() -> None:
    assert input_fn("\ufeffx\n", "text/csv") == ONE
    assert input_fn('\ufeff{"inputs": "x"}', JSON) == Request(["x"], single=True)


@pytest.mark.parametrize("accept", ["application/x-jsonlines", "application/jsonl; q=0.9"])
def test_answers_have_the_same_names(accept: str) -> None:
    record = {"probabilities": [1.0], "labels": ["a"], "predicted_label": "a"}
    assert json.loads(output_fn(Predictions([record], single=True), accept)) == record


def test_fields_of_a_record_beside_its_text_are_passed_over() -> None:
    assert input_fn('[{"text": "x", "label": "a"}]', JSON) == ONE
    assert input_fn('{"inputs": "x", "parameters": {}}', JSON) == Request(["x"], single=True)


def test_every_content_type_of_texts_in_channels_is_known_at_the_endpoint() -> None:
    # Parquet is a columnar file format, and not a request format.
    bodies = {"jsonl": '{"text": "x"}', "csv": "x", "tsv": "x"}
    for name, form in TEXT_FORMATS.items():
        if form in bodies:
            assert input_fn(bodies[form], name).contents == [("x",)], name


def test_every_content_type_of_images_in_channels_is_known_at_the_endpoint() -> None:
    for name in IMAGE_FORMATS:
        assert input_fn(b"x", name).contents == [b"x"]
