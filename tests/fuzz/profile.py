"""Number and reproducibility of the fuzz suite's examples.

By default examples are derived from the test alone, so that every CI run tries the same ones. `FINETUNE_FUZZ=20`
tries 20 times as many random examples, and shrinks failures to the smallest example.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("FINETUNE_FUZZ", "1"))


def try_examples(count: int, body: Callable[[st.DataObject], None]) -> None:
    """Run `body` with at most `count` examples in CI, and `FINETUNE_FUZZ` times as many by hand.

    If there are fewer distinct examples, each of them is tried once.
    """
    by_hand = FACTOR > 1
    profile = settings(
        max_examples=count * FACTOR,
        derandomize=not by_hand,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if by_hand else (Phase.generate,),
    )

    def example(data: st.DataObject) -> None:
        body(data)

    profile(given(data=st.data())(example))()
