"""Fixtures: the process that jobs are forked from, and the random seed."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator

import pytest

from tests.interruptions.starts import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


@pytest.fixture
def seed() -> str:
    """A new seed in every run, unless `INTERRUPTIONS_SEED` sets it; printed, so that a failure can be reproduced."""
    chosen = os.environ.get("INTERRUPTIONS_SEED") or str(secrets.randbelow(10**6))
    sys.stdout.write(f"INTERRUPTIONS_SEED={chosen}\n")
    return chosen


@pytest.fixture(scope="session")
def kills() -> int:
    """How often each job is killed: a few times, or `INTERRUPTIONS_KILLS` times."""
    return int(os.environ.get("INTERRUPTIONS_KILLS", "3"))
