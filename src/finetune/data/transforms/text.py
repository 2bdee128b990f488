"""Transforms texts into the tokens that a model expects."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from finetune.data.bad_records import BadRecordError
from finetune.data.record import Content
from finetune.data.transforms.text_augmentation import TextAugmentation
from finetune.data.transforms.text_excerpts import ExcerptTokenizer
from finetune.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


_OVERHEAD_BYTES = 250
"""Size of two Python objects and a dictionary entry."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Limits of a model on its input tokens.

    Attributes:
        vocab_size: number of token embeddings; `None` if unknown.
        type_vocab_size: number of token type embeddings; `None` if the model has none.
        skips_trailing_padding: whether a text that ends in the padding token is classified by the token before it.
    """

    vocab_size: int | None = None
    type_vocab_size: int | None = None
    skips_trailing_padding: bool = False


class TextTransform:
    """One or two texts to `input_ids`, `attention_mask` and, if the tokenizer returns them, `token_type_ids`.

    The result equals `tokenizer([text], [pair], truncation=True, max_length=max_length)`; without the lists, the
    tokenizer treats an empty second text as none. That call sets the truncation of the shared Rust object each time,
    which is not thread-safe; here it is set once on a private copy, which is only read afterwards.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        pad_to_multiple_of: int = 1,
        cache_bytes: int = 0,
        limits: TokenLimits | None = None,
        augmentation: TextAugmentation = TextAugmentation(),  # noqa: B008  # immutable
    ) -> None:
        """Copy the backend of a fast tokenizer.

        Args:
            tokenizer: tokenizer with padding side and padding token set.
            max_length: maximum sequence length in tokens, including special tokens; in a pair, the longer text is
                truncated first.
            pad_to_multiple_of: the length of a batch is rounded up to a multiple of this.
            cache_bytes: approximate size of the cache of texts and their tokens, which avoids repeated tokenization.
            limits: limits of the model that receives the tokens.
            augmentation: augmentation to apply when randomness is given.

        Raises:
            UserError: the tokenizer is not a fast tokenizer.
        """
        self._backend = _copy_backend(tokenizer, max_length)
        self._excerpts = ExcerptTokenizer(self._backend, max_length, left=tokenizer.truncation_side == "left")
        self._pads_left = tokenizer.padding_side == "left"
        self._pad_to_multiple_of = pad_to_multiple_of
        self._padding = {"input_ids": int(tokenizer.pad_token_id), "attention_mask": 0}
        if "token_type_ids" in tokenizer.model_input_names:
            self._padding["token_type_ids"] = int(tokenizer.pad_token_type_id)
        self._limits = limits or TokenLimits()
        self._augmentation = augmentation
        self._has_warned = False
        self._cache: dict[tuple[str, ...], tuple[bytes, bytes]] = {}
        self._cache_budget = cache_bytes

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:
        """Augment and tokenize the content: int64 `[length]` for each input.

        Raises:
            BadRecordError: a text contains an unpaired surrogate, or has no tokens.
        """
        if randomness is None or not self._augmentation.is_active or isinstance(content, bytes):
            tokens, types = self._encode_cached(content)
        else:
            tokens, types = self._encode(tuple(self._augmentation(text, randomness) for text in content))
        ids = torch.from_numpy(np.frombuffer(tokens, np.int32).astype(np.int64))
        values = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "token_type_ids" in self._padding:
            values["token_type_ids"] = torch.from_numpy(np.frombuffer(types, np.uint8).astype(np.int64))
        return values

    def length(self, content: Content) -> int:
        """Return the number of tokens; 0 if the text cannot be tokenized."""
        try:
            return len(self._encode_cached(content)[0]) // 4
        except BadRecordError:
            return 0

    def _encode_cached(self, content: Content) -> tuple[bytes, bytes]:
        """Return tokens as int32 and token types as uint8, from the cache if present."""
        if isinstance(content, bytes):
            raise TypeError("the content of a text record must be strings")
        encoded = self._cache.get(content)
        if encoded is None:
            encoded = self._encode(content)
            size = sum(len(part) for part in (*encoded, *content)) + _OVERHEAD_BYTES
            if size <= self._cache_budget:
                self._cache_budget -= size
                self._cache[content] = encoded
        return encoded

    def _encode(self, content: tuple[str, ...]) -> tuple[bytes, bytes]:
        try:
            for text in content:
                text.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(f"contains an unpaired surrogate at character {error.start}") from error
        encoding = self._excerpts.encode(content)
        ids, types = encoding.ids, encoding.type_ids
        if not ids:
            raise BadRecordError("has no tokens")
        self._check_embeddings(ids, types)
        encoded_types = np.asarray(types, np.uint8).tobytes() if "token_type_ids" in self._padding else b""
        return np.asarray(ids, np.int32).tobytes(), encoded_types

    def _check_embeddings(self, ids: list[int], types: list[int]) -> None:
        """Refuse tokens without an embedding, which would otherwise fail inside a training step.

        Raises:
            BadRecordError: the text contains a token beyond the embeddings, such as a literal padding token.
            UserError: the model has fewer token types than this record has texts.
        """
        limits = self._limits
        if limits.vocab_size is not None and max(ids) >= limits.vocab_size:
            raise BadRecordError(
                f"contains the token {self._backend.id_to_token(max(ids))!r} ({max(ids)}), but the model has"
                f" {limits.vocab_size} token embeddings"
            )
        if (
            "token_type_ids" in self._padding
            and limits.type_vocab_size is not None
            and max(types) >= limits.type_vocab_size
        ):
            raise UserError(
                f"The tokenizer assigns the token types 0 to {max(types)} to pairs of texts, but the model has only"
                f" {limits.type_vocab_size} (type_vocab_size): use one text per record, or a model trained on pairs."
            )
        if limits.skips_trailing_padding and ids[-1] == self._padding["input_ids"] and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "A text ends in %r, which is also the padding token: the model classifies such texts by the token"
                " before it, since config.json has no pad_token_id. Remove it from the texts, or set pad_token_id.",
                self._backend.id_to_token(ids[-1]),
            )

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad to the longest example on the tokenizer's padding side: int64 `[rows, length]` for each input."""
        longest = max((len(example["input_ids"]) for example in examples), default=0)
        length = -(-longest // self._pad_to_multiple_of) * self._pad_to_multiple_of
        batch = {}
        for name, value in self._padding.items():
            rows = torch.full((len(examples), length), value, dtype=torch.int64)
            for row, example in zip(rows, examples, strict=True):
                values = example[name]
                row[length - len(values) if self._pads_left else 0 :][: len(values)] = values
            batch[name] = rows
        return batch


def _copy_backend(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenizer:
    if not tokenizer.is_fast:
        raise UserError(
            f"the model's tokenizer ({type(tokenizer).__name__}) is not a fast tokenizer; add tokenizer.json to the"
            " model"
        )
    backend: Tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    return backend
