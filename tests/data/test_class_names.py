"""Class names that look alike or contain several classes are reported or rejected."""

from __future__ import annotations

import pytest

from finetune.data.class_names import check_class_names, similar_names, suggest_name
from finetune.data.labels import LabelMap, build_label_map, check_known_classes
from finetune.errors import DataError, UserError
from tests.support.labelled_data import MemoryReader


def reader_of(*labels: str | tuple[str, ...]) -> MemoryReader:
    label_tuples = [label if isinstance(label, tuple) else (label,) for label in labels]
    return MemoryReader([((f"text {index}",), record_labels) for index, record_labels in enumerate(label_tuples)])


def check(*names: str, multi_label: bool = False, has_several: bool = False, records: int = 1000) -> None:
    check_class_names("train", sorted(names), records=records, multi_label=multi_label, has_several=has_several)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["Pos", "neg", "pos"], [["Pos", "pos"]]),
        (["01", "1", "2", "02"], [["01", "1"], ["2", "02"]]),
        (["+1", "1", "-1"], [["+1", "1"]]),
        (["a b", "a  b", "a_b"], [["a b", "a  b"]]),
        (["\u00e9", "e\u0301", "e"], [["\u00e9", "e\u0301"]]),
        (["1", "1.5", "neg", "pos"], []),
    ],
)
def test_similar_names_are_found(names: list[str], groups: list[list[str]]) -> None:
    assert similar_names(names) == groups


def test_similar_classes_are_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    labels = build_label_map(reader_of("Pos", "pos", "neg", "01", "1"), multi_label=False, num_classes=None)
    assert labels.names == ("01", "1", "Pos", "neg", "pos")
    assert "channel 'train': classes 'Pos' and 'pos' look alike" in caplog.text
    assert "channel 'train': classes '01' and '1' look alike" in caplog.text
    check("\u00e9", "e\u0301")
    assert r"classes 'e\u0301' and '\xe9' look alike" in caplog.text


def test_similar_name_is_suggested_for_unknown_class() -> None:
    assert suggest_name("1", ["10", "01", "02"]) == " (did you mean '01'?)"
    assert suggest_name("POS", ["neg", "pos"]) == " (did you mean 'pos'?)"
    assert suggest_name("negativ", ["negative", "positive"]) == " (did you mean 'negative'?)"
    with pytest.raises(DataError, match=r"training data: '1' \(did you mean '01'\?\) in 1 records"):
        check_known_classes(reader_of("1"), LabelMap(("01", "10"), multi_label=False))


def test_joint_labels_without_multi_label_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    check("numpy|long", "numpy|long|params", "numpy", "json|params")
    assert "3 of 4 classes, such as 'numpy|long', 'numpy|long|params', " not in caplog.text
    assert "classes, such as 'numpy|long', 'numpy|long|params', consist of other class names" in caplog.text
    assert "set multi_label=true" in caplog.text


@pytest.mark.parametrize(
    "names", [("sports/football", "sports/tennis", "arts"), ("a, b", "c"), ("rock & roll", "rock"), ("n/a-like", "b")]
)
def test_names_that_contain_separators_are_not_logged(names: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    check(*names)
    assert not caplog.text


@pytest.mark.parametrize("separator", [", ", ";", "/", "+", " ", "\n"])
def test_multi_label_with_another_separator_is_refused(separator: str) -> None:
    joint_name = f"neg{separator}all"
    with pytest.raises(
        UserError, match="multi_label=true, but no record of channel 'train' has several classes"
    ) as error:
        check("neg", "all", joint_name, multi_label=True)
    assert repr(joint_name) in str(error.value)
    check("neg", "all", joint_name, multi_label=True, has_several=True)
    check("neg", "all", "pos", multi_label=True)


def test_multi_label_names_of_several_words_are_not_refused() -> None:
    check("red car", "red bus", "blue car", multi_label=True)


def test_too_many_classes_for_the_records_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    check(*"abcdef", records=12)
    assert not caplog.text
    check(*"abcdefg", records=12)
    assert (
        "channel 'train' has 7 classes in 12 records; check that the label is read from the right column" in caplog.text
    )
