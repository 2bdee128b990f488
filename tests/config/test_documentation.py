"""The committed documents match the declarations."""

from __future__ import annotations

from pathlib import Path

from finetune.config.compat.aliases import ALIASES
from finetune.config.descriptions import all_hyperparameters
from finetune.config.documentation import hyperparameters_page

ROOT = Path(__file__).resolve().parents[2]


def test_hyperparameter_page_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    assert committed == hyperparameters_page(), "run scripts/generate-docs"


def test_every_hyperparameter_and_alias_is_documented() -> None:
    page = hyperparameters_page()
    assert all(f"\n| `{name}` | " in page for name in (*all_hyperparameters(), *ALIASES))


def test_every_hyperparameter_has_one_line_of_help() -> None:
    for hyperparameter in all_hyperparameters().values():
        assert hyperparameter.help.endswith(".")
        assert "\n" not in hyperparameter.help
