"""Texts are tokenized as by the tokenizer itself, from any number of threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import pytest
import torch

from finetune.data.bad_records import BadRecordError
from finetune.data.record import Content
from finetune.data.transforms.text import TextTransform
from finetune.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WORDS = [f"w{number}" for number in range(200)]
_Side = Literal["left", "right"]


def _tokenizer(
    padding_side: _Side = "right", truncation_side: _Side = "right", template: bool = True
) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(
        models.WordLevel(
            {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_WORDS])}, unk_token="[UNK]"
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # the library leaves it so
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"]
        if template
        else ["input_ids", "attention_mask"],
        padding_side=padding_side,
        truncation_side=truncation_side,
    )


def _contents(count: int) -> Iterator[tuple[str, ...]]:
    rng = random.Random(0)
    for _ in range(count):
        texts = (" ".join(rng.choices(_WORDS, k=rng.randint(0, 60))) for _ in range(rng.randint(1, 2)))
        yield tuple(texts)


@pytest.mark.parametrize("truncation_side", ["left", "right"])
def test_tokens_equal_those_of_tokenizer(truncation_side: _Side) -> None:
    tokenizer = _tokenizer(truncation_side=truncation_side)
    transform = TextTransform(tokenizer, 24)
    for content in _contents(200):
        expected = tokenizer(*([text] for text in content), truncation="longest_first", max_length=24)
        example = transform(content, None)
        assert {name: [values.tolist()] for name, values in example.items()} == dict(expected)
        assert all(values.dtype == torch.int64 for values in example.values())


def test_longer_text_of_pair_is_truncated() -> None:
    ids = TextTransform(_tokenizer(), 10)((" ".join(_WORDS[:40]), "w7 w8"), None)["input_ids"].tolist()
    assert ids == [2, 4, 5, 6, 7, 8, 3, 11, 12, 3]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_batch_is_padded_like_tokenizer(padding_side: _Side, multiple: int) -> None:
    tokenizer = _tokenizer(padding_side=padding_side)
    transform = TextTransform(tokenizer, 30, pad_to_multiple_of=multiple)
    contents = list(_contents(12))
    batch = transform.collate([transform(content, None) for content in contents])
    examples = [{name: row.tolist() for name, row in transform(content, None).items()} for content in contents]
    expected = tokenizer.pad(examples, pad_to_multiple_of=multiple, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_inputs_unknown_to_tokenizer_are_omitted() -> None:
    transform = TextTransform(_tokenizer(template=False), 30)
    assert set(transform(("w1",), None)) == {"input_ids", "attention_mask"}
    assert {name: rows.shape for name, rows in transform.collate([]).items()} == {
        "input_ids": (0, 0),
        "attention_mask": (0, 0),
    }


def test_threads_with_different_lengths_are_independent() -> None:
    tokenizer = _tokenizer()
    transforms = {length: TextTransform(tokenizer, length) for length in (8, 16, 32)}
    calls = [(transforms[length], content) for content in _contents(400) for length in transforms]
    expected = [transform(content, None)["input_ids"].tolist() for transform, content in calls]
    with ThreadPoolExecutor(6) as pool:
        results = pool.map(lambda call: call[0](call[1], None)["input_ids"].tolist(), calls * 3)
        assert list(results) == expected * 3


class _Counting(TextTransform):
    """Counts its calls."""

    encoded = 0

    def _encode(self, content: tuple[str, ...]) -> tuple[bytes, bytes]:
        self.encoded += 1
        return super()._encode(content)


@pytest.mark.parametrize(("cache_bytes", "calls"), [(1 << 20, 50), (0, 150)])
def test_text_is_tokenized_once_within_cache_size(cache_bytes: int, calls: int) -> None:
    transform = _Counting(_tokenizer(), 24, cache_bytes=cache_bytes)
    plain = TextTransform(_tokenizer(), 24)
    contents = [(f"w{number} w1", "w2") if number % 2 else (f"w{number} w1",) for number in range(50)]
    lengths = [transform.length(content) for content in contents]
    for content, length in zip(contents, lengths, strict=True):
        first, second, expected = transform(content, None), transform(content, None), plain(content, None)
        assert len(first["input_ids"]) == length
        assert all(torch.equal(first[name], expected[name]) for name in expected)
        assert all(torch.equal(second[name], expected[name]) for name in expected)
    assert transform.encoded == calls


def test_invalid_text_has_length_zero() -> None:
    assert TextTransform(_tokenizer(), 8).length(("half \ud800",)) == 0


def test_original_tokenizer_is_unchanged() -> None:
    tokenizer = _tokenizer()
    TextTransform(tokenizer, 4)
    assert tokenizer.backend_tokenizer.truncation is None
    assert len(tokenizer("w1 w2 w3 w4 w5 w6")["input_ids"]) == 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [(("a \ud800 b",), "unpaired surrogate"), (("fine", "\udfff"), "unpaired surrogate"), (("",), "has no tokens")],
)
def test_invalid_texts_are_rejected(content: Content, reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        TextTransform(_tokenizer(template=False), 8)(content, None)


def test_slow_tokenizer_is_rejected() -> None:
    from transformers import PythonBackend

    class Slow(PythonBackend):
        def __init__(self) -> None:
            super().__init__(pad_token="[PAD]")  # type: ignore[no-untyped-call]  # the library leaves it so

        @property
        def vocab_size(self) -> int:
            return 1

        def get_vocab(self) -> dict[str, int]:
            return {"[PAD]": 0}

    with pytest.raises(UserError, match=r"Slow.*tokenizer\.json"):
        TextTransform(Slow(), 8)
