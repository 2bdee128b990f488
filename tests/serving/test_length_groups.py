"""Passes contain texts of similar length."""

from __future__ import annotations

import random

from finetune.serving.length_groups import PASS_COST, group_by_length


def padding_of(group: list[int], lengths: list[int]) -> int:
    longest = max(lengths[index] for index in group)
    return sum(longest - lengths[index] for index in group)


def test_texts_of_equal_length_share_one_pass() -> None:
    assert group_by_length([7] * 50) == [list(range(50))]
    assert group_by_length([]) == []


def test_long_and_short_texts_are_separated() -> None:
    assert group_by_length([100, 5, 101, 6]) == [[1, 3], [0, 2]]


def test_padding_is_limited_and_every_text_is_in_one_pass() -> None:
    rng = random.Random(1)
    for _ in range(50):
        lengths = [rng.randrange(1, 200) for _ in range(rng.randrange(1, 40))]
        groups = group_by_length(lengths)
        assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
        assert all(padding_of(group, lengths) <= PASS_COST for group in groups)
