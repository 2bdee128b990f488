"""The validation split: a function of content and seed, stratified by class, with equal contents on one side."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from finetune.data.loading.split import Split, content_digests, stratified_split
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import read_image_folder
from finetune.data.record import Content, Record
from finetune.errors import DataError
from tests.support.labelled_data import MemoryReader, write_files

Pair = tuple[Content, tuple[str, ...]]

contents = st.one_of(
    st.binary(max_size=3), st.tuples(st.text("ab", max_size=3)), st.tuples(st.text("ab"), st.text("a"))
)
single_labels = st.sampled_from([("x",), ("y",), ("z",)])
records_with_one_label = st.lists(st.tuples(contents, single_labels), max_size=40)
records_with_any_labels = st.lists(
    st.tuples(contents, st.sets(st.sampled_from("vwxyz")).map(lambda labels: tuple(sorted(labels)))), max_size=40
)
fractions = st.floats(0.01, 0.9)
seeds = st.integers(0, 2**32)


def split_of(records: list[Pair], fraction: float, seed: int) -> Split:
    """The split, for data that has one."""
    try:
        return stratified_split(MemoryReader(records), fraction, seed)
    except DataError:
        assume(False)
        raise


@given(st.one_of(records_with_one_label, records_with_any_labels), fractions, seeds)
def test_split_is_a_partition_that_keeps_equal_contents_together(
    records: list[Pair], fraction: float, seed: int
) -> None:
    split = split_of(records, fraction, seed)
    assert sorted(split.train + split.validation) == list(range(len(records)))
    train = {records[index][0] for index in split.train}
    assert train.isdisjoint(records[index][0] for index in split.validation)


@given(st.one_of(records_with_one_label, records_with_any_labels), fractions, seeds, st.randoms(use_true_random=False))
def test_split_does_not_depend_on_record_order(
    records: list[Pair], fraction: float, seed: int, shuffler: random.Random
) -> None:
    before = split_of(records, fraction, seed)
    shuffled = list(records)
    shuffler.shuffle(shuffled)
    after = split_of(shuffled, fraction, seed)
    held_out = {records[index][0] for index in before.validation}
    assert {shuffled[index][0] for index in after.validation} == held_out


@given(records_with_one_label, fractions, seeds)
def test_split_is_stratified_by_class(records: list[Pair], fraction: float, seed: int) -> None:
    split = split_of(records, fraction, seed)
    labels_of: dict[Content, set[str]] = defaultdict(set)
    for content, labels in records:
        labels_of[content].add(labels[0])
    own: dict[str, set[Content]] = defaultdict(set)
    for content, names in labels_of.items():
        if len(names) == 1:
            own[next(iter(names))].add(content)
    held_out = {records[index][0] for index in split.validation}
    for different in own.values():
        count = len(different & held_out)
        if len(different) < 2:
            assert count == 0
        else:
            assert 1 <= count <= len(different) - 1
            assert abs(count - fraction * len(different)) <= 1


@given(records_with_any_labels, fractions, seeds)
def test_every_class_stays_in_training(records: list[Pair], fraction: float, seed: int) -> None:
    split = split_of(records, fraction, seed)
    in_train = {label for index in split.train for label in records[index][1]}
    assert in_train >= {label for _, labels in records for label in labels}


def test_split_never_changes_between_versions() -> None:
    """Checkpoints refer to records by their position in the split, so a changed split would break resuming."""
    records: list[Pair] = [((f"text {index}",), (str(index % 2),)) for index in range(20)]
    assert stratified_split(MemoryReader(records), 0.2, 7).validation == (0, 1, 14, 15)


def test_split_depends_on_seed() -> None:
    records: list[Pair] = [((f"text {index}",), (str(index % 2),)) for index in range(100)]
    halves = {stratified_split(MemoryReader(records), 0.2, seed).validation for seed in range(5)}
    assert len(halves) == 5


def test_split_does_not_depend_on_file_names(tmp_path: Path) -> None:
    images = {f"{name}/{index}.png": f"{name} {index}".encode() for name in ("cat", "dog") for index in range(10)}
    renamed = {f"{key.partition('/')[0]}/deep/{hash(key)}.jpg": content for key, content in images.items()}
    held_out = []
    for folder, files in (("one", images), ("two", renamed)):
        reader = read_image_folder(list_files("train", write_files(tmp_path / folder, files)))
        split = stratified_split(reader, 0.3, 1)
        held_out.append(sorted(reader.read(index).content for index in split.validation))
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 6


def test_rare_label_combinations_are_sampled_jointly() -> None:
    labels = [tuple(sorted({str(index % 7), str(index % 11), str(index % 13)})) for index in range(500)]
    records: list[Pair] = [((f"text {index}",), record_labels) for index, record_labels in enumerate(labels)]
    assert len(set(labels)) > 250
    split = stratified_split(MemoryReader(records), 0.2, 0)
    assert len(split.validation) == pytest.approx(100, abs=10)


@pytest.mark.parametrize("seed", range(5))
def test_rare_label_combinations_keep_every_class_in_training(seed: int) -> None:
    combinations = ["ab", "abc", "cd", "cde", "e"]
    records: list[Pair] = [((labels,), tuple(labels)) for labels in combinations]
    split = stratified_split(MemoryReader(records), 0.9, seed)
    assert {label for index in split.train for label in combinations[index]} == set("abcde")


def test_digests_distinguish_text_pairs_from_concatenated_texts() -> None:
    reader = MemoryReader([(("ab", "c"), ()), (("a", "bc"), ()), (("abc",), ()), (b"abc", ())])
    digests = content_digests(reader, range(4))
    assert len(set(digests)) == 4


def test_conflicting_and_single_records_stay_in_training(caplog: pytest.LogCaptureFixture) -> None:
    records: list[Pair] = [(("same",), ("a",)), (("same",), ("b",)), (("only",), ("c",))]
    records += [((f"{index}",), ("a",)) for index in range(4)]
    with caplog.at_level("INFO"):
        split = stratified_split(MemoryReader(records), 0.5, 0)
    assert set(split.train) >= {0, 1, 2}
    assert "1 distinct contents have conflicting labels" in caplog.text
    assert "have none for validation: c" in caplog.text


def test_unreadable_record_stays_in_training() -> None:
    class Damaged(MemoryReader):
        def read(self, index: int) -> Record:
            if index == 3:
                raise DataError("cannot be read")
            return super().read(index)

    split = stratified_split(Damaged([((f"{index}",), ("a",)) for index in range(6)]), 0.9, 0)
    assert 3 in split.train
    assert len(split.validation) == 4


def test_fraction_of_zero_holds_out_nothing() -> None:
    assert stratified_split(MemoryReader([(("a",), ("x",))]), 0, 0) == Split((0,), ())


def test_error_for_data_that_cannot_be_split_names_the_remedies() -> None:
    with pytest.raises(DataError, match=r"'train'.*cannot hold out.*'validation'.*validation_fraction=0"):
        stratified_split(MemoryReader([(("a",), ("x",)), (("a",), ("x",)), (("b",), ("y",))]), 0.2, 0)
