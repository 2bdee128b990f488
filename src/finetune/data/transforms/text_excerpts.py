"""Tokenizes only as much of a long text as its first or last tokens need.

A tokenizer takes about 200 bytes of memory per byte of text, and then drops all tokens beyond the maximum length. So a
long text is cut at a space before it is tokenized. Tokenizers that split a text into words at spaces produce the same
tokens for the kept part; the excerpt has a few extra tokens, so that the cut does not affect the result.
"""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING

from finetune.data.bad_records import BadRecordError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

MAX_CHARACTERS = 1 << 20
"""Maximum length of a text that is tokenized as a whole, or of an excerpt."""

_MARGIN_TOKENS = 16
"""Extra tokens of an excerpt beyond those needed."""


class ExcerptTokenizer:
    """Encodes one or two texts with a truncating tokenizer, as if given in full. Thread-safe."""

    def __init__(self, backend: Tokenizer, max_length: int, *, left: bool) -> None:
        """Check whether the tokenizer splits texts at spaces.

        Args:
            backend: tokenizer that truncates to `max_length`; not modified.
            max_length: maximum number of tokens, including special tokens.
            left: whether truncation drops the first tokens rather than the last.
        """
        self._backend = backend
        self._max_length = max_length
        self._left = left
        self._initial_length = max(10_000, 32 * max_length)
        self._splits_at_spaces = _splits_at_spaces(backend)
        self._untruncated: Tokenizer | None = None  # a copy without truncation, created for long texts only
        self._lock = threading.Lock()

    def encode(self, content: tuple[str, ...]) -> Encoding:
        """Tokenize the texts.

        Raises:
            BadRecordError: a text is too long to be tokenized as a whole and cannot be cut.
        """
        long = [index for index, text in enumerate(content) if len(text) > self._initial_length]
        if not long:
            return self._encode(content)
        if len(long) == 1 and self._splits_at_spaces:
            # The longer text of a pair is truncated first, so the excerpt must remain the longer one.
            others = sum(self._count_tokens(text) for index, text in enumerate(content) if index != long[0])
            excerpt = self._shorten(content[long[0]], max(self._max_length, others) + _MARGIN_TOKENS)
            if excerpt is not None:
                return self._encode(tuple(excerpt if index == long[0] else text for index, text in enumerate(content)))
        longest = max(map(len, content))
        if longest > MAX_CHARACTERS:
            raise BadRecordError(
                f"has a text of {longest:,} characters that cannot be shortened to {self._max_length} tokens before"
                f" tokenization; the limit is {MAX_CHARACTERS:,} characters"
            )
        return self._encode(content)

    def _shorten(self, text: str, min_tokens: int) -> str | None:
        """Return the beginning or end of a text with at least `min_tokens` tokens; `None` if no short excerpt does."""
        size = self._initial_length
        while size < min(len(text), MAX_CHARACTERS):
            if self._left:
                position = text.find(" ", len(text) - size, len(text) - size // 2)
                excerpt = text[position:]
            else:
                position = text.rfind(" ", size // 2, size)
                excerpt = text[:position]
            if position >= 0 and self._count_tokens(excerpt) >= min_tokens:
                return excerpt
            size *= 2
        return None

    def _count_tokens(self, text: str) -> int:
        """Return the number of tokens of a single text, without special tokens."""
        with self._lock:
            if self._untruncated is None:
                self._untruncated = copy.deepcopy(self._backend)
                self._untruncated.no_truncation()
        (encoding,) = self._untruncated.encode_batch_fast([text], add_special_tokens=False)
        return len(encoding)

    def _encode(self, content: tuple[str, ...]) -> Encoding:
        # As a batch of one, because only batch encoding releases the GIL.
        (encoding,) = self._backend.encode_batch_fast([content[0] if len(content) == 1 else content])
        return encoding


def _splits_at_spaces(backend: Tokenizer) -> bool:
    """Return whether the words of a text are tokenized separately."""
    if backend.pre_tokenizer is None:
        return False
    words = "ab cd"
    if backend.normalizer is not None:
        words = backend.normalizer.normalize_str(words)
    return len(backend.pre_tokenizer.pre_tokenize_str(words)) > 1
