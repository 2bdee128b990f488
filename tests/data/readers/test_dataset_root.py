"""Detection of channels that are dataset roots."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.data.readers.dataset_root import check_single_split
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.errors import DataError


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        (["train.csv", "test.csv"], "test=.../test, train=.../train"),
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/dev.jsonl"],
            "validation=.../dev",
        ),
        (["Training/a.rec", "VAL/b.rec"], "train=.../Training, validation=.../VAL"),
    ],
)
def test_files_of_several_splits_raise(keys: list[str], hint: str) -> None:
    with pytest.raises(DataError, match=r"channel 'train' contains.*dataset root.*use a channel per split") as raised:
        check_single_split("train", keys)
    assert hint in str(raised.value)


@pytest.mark.parametrize(
    "keys",
    [
        ["train.csv"],
        ["train-0.parquet", "train-1.parquet"],
        ["train.csv", "more.csv"],
        ["trainers.csv", "testimonials.csv"],
        ["val.csv", "valid.csv", "validation.csv", "dev.csv"],
        ["1.csv", "2.csv"],
        [],
    ],
)
def test_files_of_one_split_are_accepted(keys: list[str]) -> None:
    check_single_split("train", keys)


def test_tables_of_several_splits_raise(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("label,text\na,one\nb,two\n", encoding="utf-8")
    spec = parse_hyperparameters({}).data
    with pytest.raises(DataError, match=r"test=\.{3}/test, train=\.{3}/train"):
        open_channel(ChannelSource("train", tmp_path), spec)
    (tmp_path / "test.csv").unlink()
    assert len(open_channel(ChannelSource("train", tmp_path), spec)) == 2
