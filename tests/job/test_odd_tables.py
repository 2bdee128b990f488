"""Tables that are easily misread give the right classes, a warning, or exit code 1 with the deciding setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagemaker_simulator import Channel, PipeSource, feed_pipes, lay_out
from tests.support.pipes import piped_request
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import Ended, finished, run_here, train_here

ROWS = [
    (animal, f"the {animal} {doing} {place} the mat, {number}")
    for animal in ("cat", "dog")
    for doing in ("sat", "ran")
    for place in ("on", "in")
    for number in range(3)
]
CSV = "".join(f'{label},"{text}"\n' for label, text in ROWS)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bert") / "bert", "bert")


def job(place: Path, network: Path, content: str, name: str = "rows.csv", **wishes: str) -> Ended:
    (place / "rows").mkdir()
    (place / "rows" / name).write_text(content, encoding="utf-8")
    wishes = {"strategy": "feature_extraction", "epochs": "1", "batch_size": "8", **wishes}
    return train_here(place / "job", {"train": place / "rows", "model": network}, wishes)


@pytest.mark.parametrize("header", ["library,docstring", "topic,headline", "species,notes"])
def test_a_header_of_unusual_names_is_no_class(tmp_path: Path, network: Path, header: str) -> None:
    assert finished(job(tmp_path, network, f"{header}\n{CSV}")).artifact()["labels"] == ["cat", "dog"]


def test_a_header_with_the_text_first_is_no_class(tmp_path: Path, network: Path) -> None:
    rows = "".join(f'"{text}",{label}\n' for label, text in ROWS)
    assert finished(job(tmp_path, network, f"docstring,library\n{rows}")).artifact()["labels"] == ["cat", "dog"]


def test_a_repeated_header_is_no_class_and_is_reported(tmp_path: Path, network: Path) -> None:
    ended = finished(job(tmp_path, network, f"label,text\n{CSV}label,text\n{CSV}"))
    assert ended.artifact()["labels"] == ["cat", "dog"]
    assert "skipped repeated headers on lines 26" in ended.log


def test_semicolons_with_a_comma_in_each_text_give_the_true_classes(tmp_path: Path, network: Path) -> None:
    rows = "".join(f"{label};sad, {text[:9]}{number}\n" for number, (label, text) in enumerate(ROWS))
    assert finished(job(tmp_path, network, rows)).artifact()["labels"] == ["cat", "dog"]


def test_a_missing_label_is_no_class_called_nan(tmp_path: Path, network: Path) -> None:
    rows = "".join(f'{float(label == "cat")},"{text}"\n' for label, text in ROWS) + "nan,some text\n"
    ended = job(tmp_path, network, f"label,text\n{rows}")
    assert ended.exit_code == 1
    assert "the label is missing ('nan'; if this is a class name, list all classes in class_names)" in ended.failure


def test_a_class_called_none_is_learnt_where_it_is_announced(tmp_path: Path, network: Path) -> None:
    content = f"label,text\n{CSV}".replace("dog", "None")
    assert job(tmp_path, network, content).exit_code == 1
    (tmp_path / "again").mkdir()
    ended = finished(job(tmp_path / "again", network, content, class_names="cat,None"))
    assert ended.artifact()["labels"] == ["cat", "None"]


def test_joint_labels_without_multi_label_are_reported(tmp_path: Path, network: Path) -> None:
    content = f"label,text\n{CSV}" + "cat|dog,both of them\ncat|dog,both again\ndog|cat,the other way\n"
    ended = finished(job(tmp_path, network, content))
    assert "consist of other class names, separated by '|'; set multi_label=true" in ended.log


def test_multi_label_with_another_separator_is_refused(tmp_path: Path, network: Path) -> None:
    content = f"label,text\n{CSV}" + '"cat, dog",both of them\n"cat, dog",both again\n'
    ended = job(tmp_path, network, content, multi_label="true")
    assert ended.exit_code == 1
    assert (
        "'cat, dog' contain other class names, separated by ','; separate the classes of a record by '|'"
        in ended.failure
    )


def test_lines_of_blazingtext_give_the_true_classes(tmp_path: Path, network: Path) -> None:
    rows = "".join(f"__label__{label} {text}\n" for label, text in ROWS)
    assert finished(job(tmp_path, network, rows)).artifact()["labels"] == ["cat", "dog"]


def piped(place: Path, network: Path, content: str, content_type: str = "text/csv", **wishes: str) -> Ended:
    (place / "rows").mkdir()
    (place / "rows" / "rows").write_text(content, encoding="utf-8")
    channels = (
        Channel("train", place / "rows", content_type=content_type, pipe=PipeSource()),
        Channel("model", network),
    )
    wishes = {"strategy": "feature_extraction", "epochs": "1", "batch_size": "8", **wishes}
    request = piped_request(channels, {"validation_fraction": "0", **wishes})
    folder = lay_out(place / "job", request)
    feeders = feed_pipes(folder, request)
    try:
        return run_here(folder)
    finally:
        for feeder in feeders:
            feeder.kill()


def test_a_piped_header_of_unusual_names_is_no_class(tmp_path: Path, network: Path) -> None:
    ended = finished(piped(tmp_path, network, f"library,docstring\n{CSV}"))
    assert ended.artifact()["labels"] == ["cat", "dog"]


def test_piped_joint_labels_with_another_separator_are_refused(tmp_path: Path, network: Path) -> None:
    content = f"label,text\n{CSV}" + '"cat, dog",both of them\n"cat, dog",both again\n'
    ended = piped(tmp_path, network, content, multi_label="true")
    assert ended.exit_code == 1
    assert "separate the classes of a record by '|'" in ended.failure


def test_a_piped_class_called_none_is_learnt_where_it_is_announced(tmp_path: Path, network: Path) -> None:
    content = f"label,text\n{CSV}".replace("dog", "None")
    ended = finished(piped(tmp_path, network, content, class_names="['cat', 'None']"))
    assert ended.artifact()["labels"] == ["cat", "None"]


def test_piped_lines_of_blazingtext_give_the_true_classes(tmp_path: Path, network: Path) -> None:
    rows = "".join(f"__label__{label} {text}\n" for label, text in ROWS)
    assert finished(piped(tmp_path, network, rows, "text/plain")).artifact()["labels"] == ["cat", "dog"]


def test_a_content_type_without_header_keeps_a_first_row_of_short_words(tmp_path: Path, network: Path) -> None:
    ended = piped(tmp_path, network, f"bird,chirping\n{CSV}", "text/csv; label_size=1")
    assert finished(ended).artifact()["labels"] == ["bird", "cat", "dog"]


def test_a_header_under_a_content_type_without_header_is_refused(tmp_path: Path, network: Path) -> None:
    ended = piped(tmp_path, network, f"label,text\n{CSV}", "text/csv;label_size=1")
    assert ended.exit_code == 1
    assert "contains column names ('label', 'text') instead of a record; remove it" in ended.failure
