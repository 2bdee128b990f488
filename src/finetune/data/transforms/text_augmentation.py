"""Random deletion and swap of words (Wei and Zou 2019, EDA, https://arxiv.org/abs/1901.11196)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_SPACES = re.compile(r"(\s+)")


@dataclass(frozen=True, slots=True)
class TextAugmentation:
    """Augmentation of texts, whose words are separated by white space.

    Attributes:
        deletion: probability of deleting a word.
        swap: number of swaps of two words, as a fraction of the number of words.
    """

    deletion: float = 0.0
    swap: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether texts are changed."""
        return bool(self.deletion or self.swap)

    def __call__(self, text: str, rng: random.Random) -> str:
        """Return the changed text, with at least one word if it has any."""
        parts = _SPACES.split(text.strip())
        words, spaces = parts[::2], [*parts[1::2], ""]
        if len(words) < 2:
            return text
        for _ in range(round(self.swap * len(words))):
            first, second = rng.sample(range(len(words)), 2)
            words[first], words[second] = words[second], words[first]
        kept = list(range(len(words)))
        if self.deletion:
            kept = [index for index in kept if rng.random() >= self.deletion] or [rng.randrange(len(words))]
        return "".join(words[index] + spaces[index] for index in kept).rstrip()
