"""Tables that are easily misread give the right classes, a warning, or exit code 1 with the deciding setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagemaker_simulator import Channel, PipeSource, feed_pipes, lay_out
from tests.support.pipes import piped_request
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import FinishedJob, run_request, run_training, succeeded

ROWS = [
    (animal, f"the {animal} {doing} {preposition} the mat, {number}")
    for animal in ("cat", "dog")
    for doing in ("sat", "ran")
    for preposition in ("on", "in")
    for number in range(3)
]
CSV = "".join(f'{label},"{text}"\n' for label, text in ROWS)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bert") / "bert", "bert")


def job(workdir: Path, artifact: Path, content: str, name: str = "rows.csv", **options: str) -> FinishedJob:
    (workdir / "rows").mkdir()
    (workdir / "rows" / name).write_text(content, encoding="utf-8")
    options = {"strategy": "feature_extraction", "epochs": "1", "batch_size": "8", **options}
    return run_training(workdir / "job", {"train": workdir / "rows", "model": artifact}, options)


@pytest.mark.parametrize("header", ["library,docstring", "topic,headline", "species,notes"])
def test_header_with_unusual_names_is_recognized(tmp_path: Path, artifact: Path, header: str) -> None:
    assert succeeded(job(tmp_path, artifact, f"{header}\n{CSV}")).artifact()["labels"] == ["cat", "dog"]


def test_header_with_text_first_is_recognized(tmp_path: Path, artifact: Path) -> None:
    rows = "".join(f'"{text}",{label}\n' for label, text in ROWS)
    assert succeeded(job(tmp_path, artifact, f"docstring,library\n{rows}")).artifact()["labels"] == ["cat", "dog"]


def test_repeated_header_is_reported(tmp_path: Path, artifact: Path) -> None:
    result = succeeded(job(tmp_path, artifact, f"label,text\n{CSV}label,text\n{CSV}"))
    assert result.artifact()["labels"] == ["cat", "dog"]
    assert "skipped repeated headers on lines 26" in result.log


def test_semicolon_tables_with_commas_in_texts(tmp_path: Path, artifact: Path) -> None:
    rows = "".join(f"{label};sad, {text[:9]}{number}\n" for number, (label, text) in enumerate(ROWS))
    assert succeeded(job(tmp_path, artifact, rows)).artifact()["labels"] == ["cat", "dog"]


def test_missing_label_is_not_class_nan(tmp_path: Path, artifact: Path) -> None:
    rows = "".join(f'{float(label == "cat")},"{text}"\n' for label, text in ROWS) + "nan,some text\n"
    result = job(tmp_path, artifact, f"label,text\n{rows}")
    assert result.exit_code == 1
    assert "the label is missing ('nan'; if this is a class name, list all classes in class_names)" in result.failure


def test_class_none_in_class_names_is_a_class(tmp_path: Path, artifact: Path) -> None:
    content = f"label,text\n{CSV}".replace("dog", "None")
    assert job(tmp_path, artifact, content).exit_code == 1
    (tmp_path / "again").mkdir()
    result = succeeded(job(tmp_path / "again", artifact, content, class_names="cat,None"))
    assert result.artifact()["labels"] == ["cat", "None"]


def test_joint_labels_without_multi_label_are_reported(tmp_path: Path, artifact: Path) -> None:
    content = f"label,text\n{CSV}" + "cat|dog,both of them\ncat|dog,both again\ndog|cat,the other way\n"
    result = succeeded(job(tmp_path, artifact, content))
    assert "consist of other class names, separated by '|'; set multi_label=true" in result.log


def test_other_label_separator_is_refused(tmp_path: Path, artifact: Path) -> None:
    content = f"label,text\n{CSV}" + '"cat, dog",both of them\n"cat, dog",both again\n'
    result = job(tmp_path, artifact, content, multi_label="true")
    assert result.exit_code == 1
    assert (
        "'cat, dog' contain other class names, separated by ','; separate the classes of a record by '|'"
        in result.failure
    )


def test_blazingtext_lines_are_parsed(tmp_path: Path, artifact: Path) -> None:
    rows = "".join(f"__label__{label} {text}\n" for label, text in ROWS)
    assert succeeded(job(tmp_path, artifact, rows)).artifact()["labels"] == ["cat", "dog"]


def piped(workdir: Path, artifact: Path, content: str, content_type: str = "text/csv", **options: str) -> FinishedJob:
    (workdir / "rows").mkdir()
    (workdir / "rows" / "rows").write_text(content, encoding="utf-8")
    channels = (
        Channel("train", workdir / "rows", content_type=content_type, pipe=PipeSource()),
        Channel("model", artifact),
    )
    options = {"strategy": "feature_extraction", "epochs": "1", "batch_size": "8", **options}
    request = piped_request(channels, {"validation_fraction": "0", **options})
    folder = lay_out(workdir / "job", request)
    feeders = feed_pipes(folder, request)
    try:
        return run_request(folder)
    finally:
        for feeder in feeders:
            feeder.kill()


def test_streamed_header_with_unusual_names_is_recognized(tmp_path: Path, artifact: Path) -> None:
    result = succeeded(piped(tmp_path, artifact, f"library,docstring\n{CSV}"))
    assert result.artifact()["labels"] == ["cat", "dog"]


def test_other_label_separator_in_stream_is_refused(tmp_path: Path, artifact: Path) -> None:
    content = f"label,text\n{CSV}" + '"cat, dog",both of them\n"cat, dog",both again\n'
    result = piped(tmp_path, artifact, content, multi_label="true")
    assert result.exit_code == 1
    assert "separate the classes of a record by '|'" in result.failure


def test_class_none_in_class_names_of_stream_is_a_class(tmp_path: Path, artifact: Path) -> None:
    content = f"label,text\n{CSV}".replace("dog", "None")
    result = succeeded(piped(tmp_path, artifact, content, class_names="['cat', 'None']"))
    assert result.artifact()["labels"] == ["cat", "None"]


def test_streamed_blazingtext_lines_are_parsed(tmp_path: Path, artifact: Path) -> None:
    rows = "".join(f"__label__{label} {text}\n" for label, text in ROWS)
    assert succeeded(piped(tmp_path, artifact, rows, "text/plain")).artifact()["labels"] == ["cat", "dog"]


def test_content_type_without_header_keeps_first_row(tmp_path: Path, artifact: Path) -> None:
    result = piped(tmp_path, artifact, f"bird,chirping\n{CSV}", "text/csv; label_size=1")
    assert succeeded(result).artifact()["labels"] == ["bird", "cat", "dog"]


def test_header_despite_content_type_is_refused(tmp_path: Path, artifact: Path) -> None:
    result = piped(tmp_path, artifact, f"label,text\n{CSV}", "text/csv;label_size=1")
    assert result.exit_code == 1
    assert "contains column names ('label', 'text') instead of a record; remove it" in result.failure
