"""Classes: names, order and numbers."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.label_parsing import label_name, label_names
from finetune.data.labels import LabelMap, build_label_map, check_known_classes
from finetune.errors import DataError, UserError
from tests.support.labelled_data import MemoryReader


def reader_of(*labels: tuple[str, ...]) -> MemoryReader:
    return MemoryReader([((f"text {index}",), record_labels) for index, record_labels in enumerate(labels)])


@given(st.integers(-(10**15), 10**15))
def test_spellings_of_a_whole_number_are_one_class(number: int) -> None:
    spellings = [number, float(number), str(number), f"{number}.0", f" {number}.000000 ", Decimal(number)]
    assert {label_name(spelling) for spelling in spellings} == {str(number)}


@pytest.mark.parametrize(
    ("value", "name"),
    [(True, "True"), (False, "False"), (1.5, "1.5"), ("01", "01"), ("-0.0", "0"), (" a b ", "a b"), ("NA", "NA")],
)
def test_label_name_of_other_values(value: object, name: str) -> None:
    assert label_name(value) == name


@pytest.mark.parametrize("value", [None, "", " \t", math.nan, Decimal("NaN")])
def test_missing_label_is_refused(value: object) -> None:
    assert label_name(value) is None
    with pytest.raises(ValueError, match="missing"):
        label_names(value, multi_label=False)


def test_object_is_refused_as_label() -> None:
    with pytest.raises(ValueError, match="a text or a number, not an object"):
        label_name({"a": 1})


@pytest.mark.parametrize("value", [["b", "a", "b"], "b|a", '["a", "b"]', " a | b "])
def test_several_labels_are_a_list_or_separated(value: object) -> None:
    assert label_names(value, multi_label=True) == ("a", "b")


@pytest.mark.parametrize("value", [[], "", "[]"])
def test_with_multi_label_a_record_may_have_no_class(value: object) -> None:
    assert label_names(value, multi_label=True) == ()


@pytest.mark.parametrize(
    ("value", "multi_label", "fault"),
    [
        (["a"], False, "set multi_label=true"),
        (["a", None], True, "one of its labels is empty"),
        ("a||b", True, "one of its labels is empty"),
        ("['a']", True, "not a JSON list"),
        (None, True, "missing"),
    ],
)
def test_invalid_labels_are_refused_with_a_reason(value: object, multi_label: bool, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        label_names(value, multi_label=multi_label)


def test_classes_are_sorted_numerically_if_all_are_integers() -> None:
    assert build_label_map(reader_of(("10",), ("9",), ("-1",)), multi_label=False, num_classes=None).names == (
        "-1",
        "9",
        "10",
    )
    names = build_label_map(reader_of(("10",), ("9",), ("b",)), multi_label=False, num_classes=None).names
    assert names == ("10", "9", "b")


def test_targets_are_indices_or_multi_hot() -> None:
    single = LabelMap(("a", "b", "c"), multi_label=False)
    assert len(single) == 3
    assert single.target(("c",)) == 2
    assert torch.equal(single.targets([("b",), ("a",)]), torch.tensor([1, 0]))
    several = LabelMap(("a", "b", "c"), multi_label=True)
    assert several.target(("c", "a")) == [1, 0, 1]
    hot = several.targets([("b",), ()])
    assert hot.dtype == torch.float32
    assert hot.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert several.targets([]).shape == (0, 3)
    assert single.targets([]).dtype == torch.int64


def test_target_requires_known_classes() -> None:
    label_map = LabelMap(("cat", "dog"), multi_label=False)
    with pytest.raises(DataError, match=r"unknown class 'cats' \(did you mean 'cat'\?\)"):
        label_map.target(("cats",))
    with pytest.raises(DataError, match="2 classes instead of one; set multi_label=true"):
        label_map.target(("cat", "dog"))


def test_label_maps_with_the_same_names_are_equal() -> None:
    assert LabelMap(("a", "b"), multi_label=False) == LabelMap(("a", "b"), multi_label=False)


@pytest.mark.parametrize("num_classes", [None, 2])
def test_one_class_is_too_few(num_classes: int | None) -> None:
    with pytest.raises(DataError, match=r"'train' has only one class, '0',.*at least two.*label_column"):
        build_label_map(reader_of(("0",), ("0",)), multi_label=False, num_classes=num_classes)


def test_more_classes_than_announced_are_refused() -> None:
    with pytest.raises(UserError, match=r"num_classes=2, but channel 'train' has 3 classes \(a, b, c\)"):
        build_label_map(reader_of(("a",), ("b",), ("c",)), multi_label=False, num_classes=2)


def test_num_classes_adds_numeric_classes_without_records() -> None:
    assert build_label_map(reader_of(("3",), ("1",)), multi_label=False, num_classes=4).names == ("0", "1", "2", "3")


@pytest.mark.parametrize("names", [("a", "b"), ("0", "1", "7"), ("1", "2", "4")])
def test_fewer_classes_than_num_classes_are_refused(names: tuple[str, ...]) -> None:
    reader = reader_of(*((name,) for name in names))
    with pytest.raises(UserError, match=rf"num_classes=4, but channel 'train' has {len(names)} classes"):
        build_label_map(reader, multi_label=False, num_classes=4)


def test_unknown_classes_are_named_with_their_records() -> None:
    label_map = LabelMap(("cat", "dog"), multi_label=False)
    check_known_classes(reader_of(("dog",)), label_map)
    with pytest.raises(DataError) as caught:
        check_known_classes(reader_of(("cat",), ("dogs",), ("dogs",), ("emu",)), label_map)
    message = str(caught.value)
    assert "'dogs' (did you mean 'dog'?) in 2 records such as record-1" in message
    assert "'emu' in 1 records such as record-3" in message


def test_error_for_many_unknown_classes_is_short() -> None:
    label_map = LabelMap(("cat", "dog"), multi_label=False)
    with pytest.raises(DataError, match=r"has 50 classes .* training data") as caught:
        check_known_classes(reader_of(*((f"{index} {'word ' * 500}",) for index in range(50))), label_map)
    assert len(str(caught.value)) < 1500


def test_too_many_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.labels.MAX_CLASSES", 5)
    assert len(LabelMap(("a", "b", "c", "d", "e"), multi_label=False)) == 5
    with pytest.raises(DataError, match="an ID of each record, set label_column"):
        LabelMap(("a", "b", "c", "d", "e", "f"), multi_label=False)


def test_single_class_error_mentions_excluded_records() -> None:
    reader = MemoryReader([(("a text",), ("neg",))])
    reader.left_out = (("a.csv:3", "it has 3 columns instead of 2"),)
    with pytest.raises(DataError, match=r"not counted, such as a\.csv:3: it has 3 columns"):
        build_label_map(reader, multi_label=False, num_classes=None)
