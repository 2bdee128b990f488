"""Fixtures: the random seed and the number of kills."""

from __future__ import annotations

import os
import secrets
import sys

import pytest


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
