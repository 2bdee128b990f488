"""For every test: no network, one thread, no display; the order of the tests, and a summary of the skipped ones."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.interruptions.starts import Zygote

# torch, transformers and matplotlib read these when they are first imported, so that no test pays for importing them
# here; jobs started by tests inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# Every process that a test starts would compile this project again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The duration of an example depends more on the machine than on the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


SLOW_SUITES = ("clients", "distributed", "fuzz", "interruptions", "publishing", "scripts", "serving")
"""Folders of tests that run whole jobs, servers or several processes."""


def pytest_collection() -> None:
    """Collect no garbage while the tests are collected, which would take a quarter of that time: all of it is kept."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again, but none of the modules and tests, which every full collection would traverse."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow suites, before `-m` selects tests by their marks, and sort all tests by duration.

    Slow tests come first: a worker that got one last would run it alone. Those of the image follow, because it may
    still be built.
    """
    folders = [Path(__file__).parent / suite for suite in SLOW_SUITES]
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in folders):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if isinstance(item, pytest.Function) and "image" in item.fixturenames:
        return 1
    return 0 if item.get_closest_marker("slow") else 2


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The process that jobs are forked from."""
    from tests.interruptions.starts import Zygote

    with Zygote() as process:
        yield process


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the skipped tests and the reasons."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        where, why = report.nodeid, report.longrepr
        reasons[why[2].removeprefix("Skipped: ") if isinstance(why, tuple) else str(why)].append(where)
    for item in terminalreporter.stats.get("deselected", []):
        reasons["deselected on the command line"].append(item.nodeid)
    if not reasons:
        return
    count = sum(len(tests) for tests in reasons.values())
    terminalreporter.write_sep("!", f"LEFT OUT: {count} test(s)", red=True, bold=True)
    for reason, tests in sorted(reasons.items()):
        terminalreporter.write_line(f"{len(tests)} test(s): {reason}", red=True)
        for test in tests[:5]:
            terminalreporter.write_line(f"    {test}")
        if len(tests) > 5:
            terminalreporter.write_line(f"    and {len(tests) - 5} more")
