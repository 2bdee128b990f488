"""The committed documents match the declarations."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.compat.aliases import ALIASES
from finetune.config.descriptions import all_hyperparameters
from finetune.config.documentation import BEGIN, END, hyperparameters_page, insert_table, readme_table

ROOT = Path(__file__).resolve().parents[2]


def test_hyperparameter_page_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    assert committed == hyperparameters_page(), "run scripts/generate-docs"


def test_readme_table_is_up_to_date() -> None:
    committed = (ROOT / "README.md").read_text(encoding="utf-8")
    assert committed == insert_table(committed), "run scripts/generate-docs"


def test_every_hyperparameter_and_alias_is_documented() -> None:
    page = hyperparameters_page()
    assert all(f"\n| `{name}` | " in page for name in (*all_hyperparameters(), *ALIASES))
    assert all(f"\n| `{name}` | " in readme_table() for name in list(all_hyperparameters())[1:])


def test_every_hyperparameter_has_one_line_of_help() -> None:
    for hyperparameter in all_hyperparameters().values():
        assert hyperparameter.help.endswith(".")
        assert "\n" not in hyperparameter.help


def test_only_text_between_markers_is_replaced() -> None:
    updated = insert_table(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert updated == f"before\n{BEGIN}\n\n{readme_table()}\n{END}\nafter\n"
    assert insert_table(updated) == updated


@pytest.mark.parametrize("readme", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_readme_without_markers_is_rejected(readme: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        insert_table(readme)
