"""Does docs/clients.md name every example and every script, and none that is not there?"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def test_every_example_is_named_and_every_named_one_exists() -> None:
    files = (ROOT / "scripts" / "examples").glob("sdk_v*/*.py")
    examples = {f"{path.parent.name}/{path.stem}" for path in files if "__main__" in path.read_text(encoding="utf-8")}
    assert set(re.findall(r"sdk_v\d/\w+", PAGE)) == examples


def test_what_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:scripts|tests)/[\w./-]+|buildspec\.yml)", PAGE))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_hyperparameters_of_the_page_are_known() -> None:
    table = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    used = {name for found in re.findall(r"hyperparameters=\{(.*?)\}", PAGE) for name in re.findall(r'"(\w+)":', found)}
    assert used
    assert {name for name in used if f"`{name}`" not in table} == set()
