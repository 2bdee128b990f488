"""Tokenizes no more of a long text than its first or last tokens need.

A tokenizer takes about 200 bytes of memory for each byte of a text, and then drops all tokens beyond the longest
length. So a long text is cut at a blank before it is tokenized. Tokenizers that divide a text into words at blanks give
the same tokens for what is kept; the excerpt has some more than that, so that the cut has no part in them.
"""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING

from finetune.data.bad_records import BadContent

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

MOST_CHARACTERS = 1 << 20
"""Of a text that is tokenized as a whole, or of an excerpt."""

_MARGIN = 16
"""Tokens of an excerpt beyond those that are needed."""


class Excerpts:
    """Encodes one or two texts by a tokenizer that truncates, as if they were given to it whole. Thread-safe."""

    def __init__(self, backend: Tokenizer, max_length: int, *, left: bool) -> None:
        """Find out whether the tokenizer divides texts at blanks.

        Args:
            backend: truncates to `max_length`; is only read.
            max_length: tokens, special ones included.
            left: whether truncation drops the first tokens rather than the last.
        """
        self._backend = backend
        self._max_length = max_length
        self._left = left
        self._short = max(10_000, 32 * max_length)
        self._divides = _divides_at_blanks(backend)
        self._whole: Tokenizer | None = None  # a copy that does not truncate, which only long texts need
        self._lock = threading.Lock()

    def encode(self, content: tuple[str, ...]) -> Encoding:
        """Tokenize.

        Raises:
            BadContent: a text is too long to be tokenized whole, and cannot be cut.
        """
        long = [at for at, text in enumerate(content) if len(text) > self._short]
        if not long:
            return self._encode(content)
        if len(long) == 1 and self._divides:
            # Of two texts the longer one loses tokens first, so an excerpt must stay the longer one.
            others = sum(self._count(text) for at, text in enumerate(content) if at != long[0])
            excerpt = self._excerpt(content[long[0]], max(self._max_length, others) + _MARGIN)
            if excerpt is not None:
                return self._encode(tuple(excerpt if at == long[0] else text for at, text in enumerate(content)))
        longest = max(map(len, content))
        if longest > MOST_CHARACTERS:
            raise BadContent(
                f"has a text of {longest:,} characters that cannot be cut to {self._max_length} tokens before it is"
                f" tokenized, for which {MOST_CHARACTERS:,} characters are the most"
            )
        return self._encode(content)

    def _excerpt(self, text: str, needed: int) -> str | None:
        """The beginning or the end of a text with at least so many tokens; `None` where it has no short one."""
        size = self._short
        while size < min(len(text), MOST_CHARACTERS):
            if self._left:
                at = text.find(" ", len(text) - size, len(text) - size // 2)
                excerpt = text[at:]
            else:
                at = text.rfind(" ", size // 2, size)
                excerpt = text[:at]
            if at >= 0 and self._count(excerpt) >= needed:
                return excerpt
            size *= 2
        return None

    def _count(self, text: str) -> int:
        """Tokens of a text by itself, without special ones."""
        with self._lock:
            if self._whole is None:
                self._whole = copy.deepcopy(self._backend)
                self._whole.no_truncation()
        (encoding,) = self._whole.encode_batch_fast([text], add_special_tokens=False)
        return len(encoding)

    def _encode(self, content: tuple[str, ...]) -> Encoding:
        # As a batch of one, because only encoding a batch releases the interpreter's lock.
        (encoding,) = self._backend.encode_batch_fast([content[0] if len(content) == 1 else content])
        return encoding


def _divides_at_blanks(backend: Tokenizer) -> bool:
    """Whether the words of a text are tokenized one by one."""
    if backend.pre_tokenizer is None:
        return False
    words = "ab cd"
    if backend.normalizer is not None:
        words = backend.normalizer.normalize_str(words)
    return len(backend.pre_tokenizer.pre_tokenize_str(words)) > 1
