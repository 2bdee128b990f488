"""The outputs of a kept head map to its folder's class names, or a warning states the assumed order."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.errors import UserError
from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone, locate_source, source_classes
from tests.support.model_requests import request_model
from tests.support.tiny_transformers import write_folder

CLASSES = ("neg", "pos")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=CLASSES)


def configure(folder: Path, **fields: object) -> Path:
    """Write the class fields unchanged; fields that are not given are removed."""
    path = folder / "config.json"
    about = {"id2label", "label2id", "num_labels", "problem_type"}
    config = {name: value for name, value in json.loads(path.read_text()).items() if name not in about}
    path.write_text(json.dumps({**config, **fields}))
    return folder


def load(folder: Path, **options: Any) -> Backbone:  # noqa: ANN401 - arguments of `ask`
    options = {"labels": CLASSES, "channel": folder, "trained": False, **options}
    return load_backbone(request_model(None, folder.parent, task="text-classification", **options))


def refusal(folder: Path, **options: Any) -> str:  # noqa: ANN401 - arguments of `ask`
    with pytest.raises(UserError) as caught:
        load(folder, **options)
    return str(caught.value)


def rows_of(backbone: Backbone, folder: Path) -> list[int]:
    """For each output of the model, the index of the folder's head output that it was loaded from."""
    source_rows, own = load_file(folder / "model.safetensors")["classifier.weight"], backbone.module.state_dict()
    return [
        next(number for number, row in enumerate(source_rows) if torch.equal(row, head_row))
        for head_row in own["classifier.weight"]
    ]


NAMED = {"0": "neg", "1": "pos"}
MADE_UP = {"0": "LABEL_0", "1": "LABEL_1"}


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"id2label": NAMED}, [0, 1]),
        ({"id2label": {"1": "neg", "0": "pos"}}, [1, 0]),
        ({"id2label": {"0": "pos", "1": "neg"}, "label2id": {"pos": 0, "neg": 1}}, [1, 0]),
        ({"label2id": {"pos": 0, "neg": 1}}, [1, 0]),
        ({"label2id": {"neg": "1", "pos": "0"}}, [1, 0]),
        ({"label2id": {"pos": 0, "neg": 1}, "num_labels": 2}, [1, 0]),
        ({"label2id": {"pos": 0, "neg": 1}, "id2label": MADE_UP}, [1, 0]),
        ({"id2label": {"0": "pos", "1": "neg"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, [1, 0]),
        ({"id2label": {"0": "pos", "1": "neg"}, "label2id": {}}, [1, 0]),
    ],
)
def test_label_order_comes_from_id2label_or_label2id(
    fields: dict[str, object], rows: list[int], bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "finetune"):
        backbone = load(configure(bert, **fields))
    assert rows_of(backbone, bert) == rows
    assert backbone.weights.labels == tuple(CLASSES[row] for row in rows)
    assert not caplog.records
    request = request_model(None, bert.parent, task="text-classification", channel=bert)
    assert source_classes(request, locate_source(request)) == backbone.weights.labels


def test_label2id_alone_may_have_more_than_two_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("a", "b", "c"))
    configure(folder, label2id={"c": 0, "a": 1, "b": 2})
    assert rows_of(load(folder, labels=("a", "b", "c")), folder) == [1, 2, 0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"id2label": NAMED, "label2id": {"neg": 1, "pos": 0}},
            "contradicts itself: 'neg' is 0 in id2label and 1 in label2id",
        ),
        (
            {"id2label": NAMED, "label2id": {"neg": 0, "good": 1}},
            "contradicts itself: 'good' is not in id2label and 1 in label2id",
        ),
        ({"id2label": NAMED, "label2id": {"neg": 0}}, "'pos' is 1 in id2label and not in label2id"),
        ({"id2label": {"1": "neg", "2": "pos"}}, "numbers its classes 1, 2 in id2label, not 0 to 1"),
        ({"id2label": {"0": "neg", "2": "pos"}}, "numbers its classes 0, 2 in id2label, not 0 to 1"),
        ({"id2label": {"0": "neg", "1": "neg"}}, "has the class 'neg' more than once in id2label (0, 1)"),
        ({"label2id": {"neg": 1, "pos": 2}}, "numbers its classes 1, 2 in label2id, not 0 to 1"),
        ({"label2id": {"neg": 1, "pos": 1}}, "two classes have the same number"),
        ({"label2id": {"neg": "first", "pos": "second"}}, "each class needs a number"),
        ({"label2id": {"neg": 0, "pos": 1}, "num_labels": 3}, "3 classes in num_labels, 2 classes in label2id"),
        ({"label2id": {"a": 0, "b": 1, "c": 2}, "id2label": MADE_UP}, "2 classes in id2label, 3 classes in label2id"),
        ({"id2label": NAMED, "problem_type": "regression"}, "describes a regression (problem_type='regression'"),
        ({"num_labels": 1}, "describes a regression (problem_type=None, num_labels=1)"),
    ],
)
def test_contradictory_labels_are_refused_if_the_head_is_needed(
    fields: dict[str, object], reason: str, bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configure(bert, **fields)
    message = refusal(bert)
    assert message.startswith("strategy=evaluate needs the top layer of the weights, but config.json ")
    assert reason in message
    assert reason in refusal(bert, trained=True, reinitialize="false")
    if "num_labels" in fields:
        # The tensors have a different number of classes, so training is impossible too.
        assert "classes" in refusal(bert, trained=True)
        return
    with caplog.at_level(logging.WARNING, "finetune"):
        backbone = load(bert, trained=True)
    assert not backbone.weights.kept_head
    assert reason in caplog.text
    request = request_model(None, bert.parent, task="text-classification", channel=bert)
    assert source_classes(request, locate_source(request)) is None


def test_num_labels_must_match_id2label(bert: Path) -> None:
    assert "num_labels=3, but id2label has 2 classes" in refusal(configure(bert, id2label=NAMED, num_labels=3))


@pytest.mark.parametrize("fields", [{}, {"id2label": MADE_UP}, {"num_labels": 2}])
def test_assumed_class_order_is_logged(fields: dict[str, object], bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure(bert, **fields)
    with caplog.at_level(logging.WARNING, "finetune"):
        assert load(bert, labels=("schlecht", "gut")).weights.kept_head
    assert "output 0 is assigned to 'schlecht', 1 to 'gut'" in caplog.text
    assert "set class_names" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "finetune"):
        load(bert, labels=("schlecht", "gut"), ordered=True)
        assert not load(bert, labels=("a", "b", "c"), trained=True).weights.kept_head
    assert not caplog.records


@pytest.mark.parametrize("pattern", ["{}", "LABEL_{}"])
def test_numbered_class_names_select_the_output(pattern: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=tuple(f"LABEL_{number}" for number in range(12)))
    labels = tuple(sorted(pattern.format(number) for number in range(12)))
    assert labels[2] == pattern.format(10)
    with caplog.at_level(logging.WARNING, "finetune"):
        backbone = load(folder, labels=labels)
    assert rows_of(backbone, folder) == [0, 1, 10, 11, *range(2, 10)]
    assert not caplog.records


def test_class_numbers_that_do_not_start_at_zero_are_logged(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure(bert)
    with caplog.at_level(logging.WARNING, "finetune"):
        load(bert, labels=("1", "2"))
    assert "output 0 is assigned to '1', 1 to '2'" in caplog.text


def test_long_assumed_order_is_shortened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=tuple(f"LABEL_{number}" for number in range(9)))
    with caplog.at_level(logging.WARNING, "finetune"):
        load(folder, labels=tuple("abcdefghi"))
    assert "output 0 is assigned to 'a', 1 to 'b', 2 to 'c', 3 to 'd', 4 to 'e' and so on up to output 8" in caplog.text


@pytest.mark.parametrize(
    ("kind", "several"), [("multi_label_classification", False), ("single_label_classification", True)]
)
def test_a_head_of_another_problem_type_is_refused(kind: str, several: bool, bert: Path) -> None:
    configure(bert, id2label=NAMED, problem_type=kind)
    setting = "true" if kind.startswith("multi") else "false"
    assert f"set multi_label={setting}" in refusal(bert, multi_label=several)
    assert load(bert, multi_label=not several).weights.kept_head


def test_single_multi_label_class_is_not_a_regression(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("rain",))
    configure(folder, id2label={"0": "rain"}, problem_type="multi_label_classification")
    assert load(folder, labels=("rain",), multi_label=True).weights.kept_head


def test_artifact_and_configuration_must_have_the_same_classes(bert: Path) -> None:
    artifact = {"framework": "transformers", "name": "bert", "labels": list(reversed(CLASSES))}
    (bert / "artifact.json").write_text(json.dumps(artifact))
    message = refusal(bert)
    assert "artifact.json has labels=pos, neg, but config.json has id2label=neg, pos" in message
    configure(bert, id2label=MADE_UP)
    assert rows_of(load(bert), bert) == [1, 0]
