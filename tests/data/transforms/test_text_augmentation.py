"""Words are deleted and swapped with the requested frequencies, and all randomness is that of the record."""

from __future__ import annotations

import random

import torch

from finetune.data.transforms.text import TextTransform
from finetune.data.transforms.text_augmentation import TextAugmentation
from tests.data.transforms.test_texts import _tokenizer

TEXT = " ".join(f"w{number}" for number in range(50))


def test_words_are_deleted_with_their_probability_and_keep_their_order() -> None:
    kept = [TextAugmentation(deletion=0.2)(TEXT, random.Random(seed)).split() for seed in range(200)]
    assert 0.78 < sum(map(len, kept)) / (200 * 50) < 0.82
    assert all(words == sorted(words, key=TEXT.split().index) for words in kept)


def test_one_word_remains() -> None:
    texts = {TextAugmentation(deletion=0.9)("one two", random.Random(seed)) for seed in range(50)}
    assert texts == {"one", "two", "one two"}
    assert TextAugmentation(deletion=0.9, swap=1.0)("one", random.Random(0)) == "one"
    assert TextAugmentation(deletion=0.9, swap=1.0)("", random.Random(0)) == ""


def test_pairs_of_words_are_swapped_between_the_same_spaces() -> None:
    text = "a  b\nc d"
    swapped = {TextAugmentation(swap=0.25)(text, random.Random(seed)) for seed in range(50)}
    assert len(swapped) == 6  # pairs of four words
    assert all(sorted(other) == sorted(text) and other[1:3] == "  " and other[4] == "\n" for other in swapped)
    assert TextAugmentation(swap=0.1)(text, random.Random(0)) == text


def test_transform_augments_if_randomness_is_given() -> None:
    tokenizer = _tokenizer()
    content = (TEXT, TEXT[:20])
    plain, words = TextTransform(tokenizer, 80), TextTransform(tokenizer, 80, augmentation=TextAugmentation(0.3, 0.3))
    expected = plain(content, random.Random(0))["input_ids"]
    assert torch.equal(words(content, None)["input_ids"], expected)
    augmented = [words(content, random.Random(seed))["input_ids"] for seed in (1, 1, 2)]
    assert torch.equal(augmented[0], augmented[1])
    assert not torch.equal(augmented[0], augmented[2])
    assert words.length(content) == len(expected)
