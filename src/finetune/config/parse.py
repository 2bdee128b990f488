"""Parses the platform's string map into a checked `JobSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from pydantic import ValidationError

from finetune.config.compat.translate import Setting, translate
from finetune.config.descriptions import all_hyperparameters
from finetune.config.faults import message_of
from finetune.config.hyperparameters import (
    CheckpointSpec,
    DataSpec,
    FeatureSpec,
    JobSpec,
    ModelSpec,
    ObserveSpec,
    OptimisationSpec,
    RunSpec,
    Section,
    StrategySpec,
)
from finetune.config.unused import IDLE, unused_hyperparameter_notes, unused_hyperparameters
from finetune.config.validation import contradictions
from finetune.errors import UserError

SectionType = TypeVar("SectionType", bound=Section)


def parse_hyperparameters(raw: Mapping[str, str]) -> JobSpec:
    """Read, translate and check hyperparameters as the platform delivers them.

    Args:
        raw: names (with `_` or `-`) and values as text, possibly encoded as JSON.

    Raises:
        UserError: all faults of the request, one per line, within the length shown by the platform.
    """
    settings = translate(raw)
    reader = _Reader(settings.chosen)
    spec = JobSpec(
        data=reader.section(DataSpec),
        model=reader.section(ModelSpec),
        strategy=reader.section(StrategySpec),
        optimisation=reader.section(OptimisationSpec),
        run=reader.section(RunSpec),
        checkpoint=reader.section(CheckpointSpec),
        features=reader.section(FeatureSpec),
        observe=reader.section(ObserveSpec),
    )
    faults = [*settings.faults, *reader.faults.values(), *contradictions(spec, reader.faults.keys())]
    if faults:
        raise UserError(message_of(faults))
    idle = unused_hyperparameters(IDLE, spec, settings.chosen.keys())
    notes = (*settings.notes, *unused_hyperparameter_notes(idle))
    given = frozenset(settings.chosen.keys() - idle.keys())
    return replace(spec, notes=notes, given=given, objective=settings.objective)


class _Reader:
    """Reads section by section and collects the values that could not be read.

    Attributes:
        faults: message by hyperparameter.
    """

    def __init__(self, chosen: Mapping[str, Setting]) -> None:
        self._chosen = chosen
        self.faults: dict[str, str] = {}

    def section(self, section: type[SectionType]) -> SectionType:
        """Read one section; unreadable values are replaced by defaults, so that the other sections are checked."""
        names = [info.alias or field for field, info in section.model_fields.items()]
        texts = {name: self._chosen[name].claim.value for name in names if name in self._chosen}
        try:
            return section.model_validate(texts)
        except ValidationError as error:
            wrong = {str(fault["loc"][0]) for fault in error.errors()}
        self.faults |= {name: self._fault(name) for name in names if name in wrong}
        return section.model_validate({name: texts[name] for name in texts.keys() - wrong})

    def _fault(self, name: str) -> str:
        setting, knob = self._chosen[name], all_hyperparameters()[name]
        target = "" if setting.name.replace("-", "_") == name else f"{name} "
        default = "" if knob.default == "None" else f" (default {knob.default})"
        return f"{setting.said} is not allowed: give {target}{knob.allowed}{default}."
