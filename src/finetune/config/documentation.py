"""Renders the hyperparameter documentation as Markdown; `scripts/generate-docs` writes the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from finetune.config.compat.aliases import ALIASES, SYNONYMS
from finetune.config.descriptions import Hyperparameter, all_hyperparameters, heading
from finetune.config.hyperparameters import SECTIONS

_PAGE_HEADER = """\
# Hyperparameters

<!-- Written by scripts/generate-docs from src/finetune/config: change it there. -->

Values are passed as text: `0.001` or `1e-3`; `10` or `10.0`; `true`, `True` or `1`; `10,20` or `[10, 20]`; `None` for
optional values; and any of these in JSON quotes. Names may contain `-` instead of `_`. All errors of a request are
reported at once, before any data is read. Translated and unused hyperparameters are listed at the beginning of the
log, or in the plan if they depend on the channels or the model. `sagemaker_*` and `_tuning_objective_metric`, which the
platform's clients add, are accepted.
"""
_ALIASES_SECTION = """\
## Aliases

Names used by the platform's built-in algorithms, JumpStart and the Hugging Face Trainer. If two names set one
hyperparameter to different values, the job fails and names both.
"""
_IGNORED_SECTION = """\
## Ignored names

These have no equivalent; the job accepts them and logs that they are ignored.
"""
_VALUE_ALIAS_USERS = "other tools, with the same name"


def hyperparameters_page() -> str:
    """The content of `docs/hyperparameters.md`."""
    parts = [_PAGE_HEADER]
    for section in SECTIONS:
        title, sentence = heading(section)
        rows = [
            _row(hyperparameter) for hyperparameter in all_hyperparameters().values() if hyperparameter.section == title
        ]
        table = _table(("name", "type", "allowed", "default", "meaning"), rows)
        parts.append(f"## {title}\n\n{sentence}\n\n{table}")
    aliases = [(alias.name, alias.used_by, alias.becomes) for alias in ALIASES.values() if not alias.ignored]
    aliases += [
        (f"{name}={value}", _VALUE_ALIAS_USERS, f"`{name}={equivalent}`")
        for (name, value), equivalent in SYNONYMS.items()
    ]
    parts.append(f"{_ALIASES_SECTION}\n{_table(('name', 'used by', 'equivalent'), _sorted_rows(aliases))}")
    ignored = [(alias.name, alias.used_by, alias.becomes) for alias in ALIASES.values() if alias.ignored]
    parts.append(f"{_IGNORED_SECTION}\n{_table(('name', 'used by', 'reason'), _sorted_rows(ignored))}")
    return "\n".join(parts)


def _row(hyperparameter: Hyperparameter) -> tuple[str, ...]:
    allowed = ", ".join(f"`{choice}`" for choice in hyperparameter.format.choices) or hyperparameter.limits or "any"
    optional = ", or `None`" if hyperparameter.format.optional else ""
    return (
        f"`{hyperparameter.name}`",
        hyperparameter.format.kind,
        allowed + optional,
        f"`{hyperparameter.default}`",
        hyperparameter.help,
    )


def _sorted_rows(rows: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [(f"`{name}`", used_by, becomes) for name, used_by, becomes in sorted(rows)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
