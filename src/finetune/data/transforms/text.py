"""From texts to the tokens that a network expects."""

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

from finetune.data.bad_records import BadContent
from finetune.data.record import Content
from finetune.data.transforms.text_excerpts import Excerpts
from finetune.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


_OVERHEAD_BYTES = 250
"""Of two Python objects and an entry in a dictionary."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """What a network can take of tokens.

    Attributes:
        vocabulary: number of embedded tokens; `None` where it is not known.
        token_types: number of embedded token types; `None` where the network has none.
        borrowed_padding: whether a text that ends in the padding token is classified by the token before it.
    """

    vocabulary: int | None = None
    token_types: int | None = None
    borrowed_padding: bool = False


class TextTransform:
    """One or two texts to `input_ids`, `attention_mask` and, where the tokenizer gives them, `token_type_ids`.

    The result equals that of `tokenizer([text], [pair], truncation=True, max_length=max_length)`; without the lists the
    tokenizer takes an empty second text for none. That call sets the truncation of the shared Rust object each time,
    which is not safe in threads; here a private copy of it is set once and only read afterwards.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        pad_to_multiple_of: int = 1,
        kept_bytes: int = 0,
        limits: TokenLimits | None = None,
    ) -> None:
        """Copy the tokenizer's fast part.

        Args:
            tokenizer: with padding side and token set.
            max_length: longest sequence in tokens, special tokens included; of a pair, the longer text is cut first.
            pad_to_multiple_of: the length of a batch is rounded up to it.
            kept_bytes: about how much memory may be taken for texts and their tokens, so that none is tokenised twice.
            limits: of the network that the tokens are for.

        Raises:
            UserError: the tokenizer has no fast part.
        """
        self._backend = _private_backend(tokenizer, max_length)
        self._excerpts = Excerpts(self._backend, max_length, left=tokenizer.truncation_side == "left")
        self._pads_left = tokenizer.padding_side == "left"
        self._pad_to_multiple_of = pad_to_multiple_of
        self._padding = {"input_ids": int(tokenizer.pad_token_id), "attention_mask": 0}
        if "token_type_ids" in tokenizer.model_input_names:
            self._padding["token_type_ids"] = int(tokenizer.pad_token_type_id)
        self._limits = limits or TokenLimits()
        self._warned = False
        self._kept: dict[tuple[str, ...], tuple[bytes, bytes]] = {}
        self._room = kept_bytes

    def __call__(self, content: Content, randomness: random.Random | None) -> dict[str, Tensor]:  # noqa: ARG002 - texts are not augmented
        """Tokenise: int64 `[length]` for each input.

        Raises:
            BadContent: a text contains half of a surrogate pair, or there are no tokens.
        """
        tokens, types = self._encoded(content)
        ids = torch.from_numpy(np.frombuffer(tokens, np.int32).astype(np.int64))
        values = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "token_type_ids" in self._padding:
            values["token_type_ids"] = torch.from_numpy(np.frombuffer(types, np.uint8).astype(np.int64))
        return values

    def length(self, content: Content) -> int:
        """Number of tokens; 0 where the text cannot be tokenised."""
        try:
            return len(self._encoded(content)[0]) // 4
        except BadContent:
            return 0

    def _encoded(self, content: Content) -> tuple[bytes, bytes]:
        """Tokens as int32 and types as uint8, from memory where they are kept."""
        if isinstance(content, bytes):
            raise TypeError("a text is str")
        kept = self._kept.get(content)
        if kept is None:
            kept = self._encode(content)
            size = sum(len(part) for part in (*kept, *content)) + _OVERHEAD_BYTES
            if size <= self._room:
                self._room -= size
                self._kept[content] = kept
        return kept

    def _encode(self, content: tuple[str, ...]) -> tuple[bytes, bytes]:
        try:
            for text in content:
                text.encode()
        except UnicodeEncodeError as error:
            raise BadContent(f"has half a character at {error.start}: {error.reason}") from error
        encoding = self._excerpts.encode(content)
        ids, types = encoding.ids, encoding.type_ids
        if not ids:
            raise BadContent("has no tokens")
        self._check_embedded(ids, types)
        kept_types = np.asarray(types, np.uint8).tobytes() if "token_type_ids" in self._padding else b""
        return np.asarray(ids, np.int32).tobytes(), kept_types

    def _check_embedded(self, ids: list[int], types: list[int]) -> None:
        """Refuse what the network has no embedding for, which would otherwise fail inside a step.

        Raises:
            BadContent: the text contains a token beyond the embeddings, such as the padding token written out.
            UserError: the network has fewer token types than this record has texts.
        """
        limits = self._limits
        if limits.vocabulary is not None and max(ids) >= limits.vocabulary:
            raise BadContent(
                f"contains the token {self._backend.id_to_token(max(ids))!r} ({max(ids)}), but the model embeds"
                f" {limits.vocabulary} tokens"
            )
        if "token_type_ids" in self._padding and limits.token_types is not None and max(types) >= limits.token_types:
            raise UserError(
                f"The tokenizer gives pairs of texts the token types 0 to {max(types)}, but the model embeds"
                f" {limits.token_types} (type_vocab_size): give one text per record, or a model trained on pairs."
            )
        if limits.borrowed_padding and ids[-1] == self._padding["input_ids"] and not self._warned:
            self._warned = True
            _log.warning(
                "A text ends in %r, which also pads: the model classifies such texts by the token before it, since"
                " config.json has no pad_token_id. Remove it from the texts, or set a pad_token_id.",
                self._backend.id_to_token(ids[-1]),
            )

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad to the longest example on the tokenizer's side: int64 `[rows, length]` for each input."""
        longest = max((len(example["input_ids"]) for example in examples), default=0)
        length = -(-longest // self._pad_to_multiple_of) * self._pad_to_multiple_of
        batch = {}
        for name, value in self._padding.items():
            rows = torch.full((len(examples), length), value, dtype=torch.int64)
            for row, example in zip(rows, examples, strict=True):
                own = example[name]
                row[length - len(own) if self._pads_left else 0 :][: len(own)] = own
            batch[name] = rows
        return batch


def _private_backend(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenizer:
    if not tokenizer.is_fast:
        raise UserError(
            f"the model's tokenizer ({type(tokenizer).__name__}) has no fast form; add its tokenizer.json to the model"
        )
    backend: Tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    return backend
