"""How many examples the fuzz suite tries, and whether they are the same each time.

By default examples are derived from the test alone, so that every run of CI tries the same ones. `FINETUNE_FUZZ=20`
tries 20 times as many, drawn at random.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

FACTOR = int(os.environ.get("FINETUNE_FUZZ", "1"))

_REPEATABLE = settings(
    derandomize=FACTOR == 1,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink) if FACTOR > 1 else (Phase.explicit, Phase.generate),
)


def examples(count: int) -> settings:
    """Settings for a test with `count` examples in CI, and `FINETUNE_FUZZ` times as many by hand."""
    return settings(_REPEATABLE, max_examples=count * FACTOR)
