"""Before and after in docs/migration.md are the same job."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.config.dialects.table import DIALECTS
from finetune.config.hyperparameters import JobSpec
from finetune.config.parse import parse_hyperparameters

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "migration.md").read_text(encoding="utf-8")
SECTIONS = {title: text for title, _, text in (part.partition("\n") for part in PAGE.split("\n## ")[1:])}
TITLES = {"mxnet_image_classification": "Image Classification - MXNet", "jumpstart": "JumpStart"}


def requests_of(title: str) -> list[dict[str, str]]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", SECTIONS[title], re.DOTALL)]


def without_dialect(spec: JobSpec) -> JobSpec:
    run = spec.run.model_copy(update={"dialect": "auto"})
    return replace(spec, run=run, notes=(), objective=None)


@pytest.mark.parametrize("name", DIALECTS)
def test_before_and_after_are_the_same_job(name: str) -> None:
    dialect = DIALECTS[name]  # type: ignore[index]  # a name of the table
    before, after = map(parse_hyperparameters, requests_of(TITLES.get(name, dialect.tool)))
    assert before.dialect is not None
    assert before.dialect.name == name
    assert after.dialect is None
    assert without_dialect(before) == without_dialect(after)


def test_every_dialect_has_a_section() -> None:
    assert {TITLES.get(name, dialect.tool) for name, dialect in DIALECTS.items()} <= SECTIONS.keys()
