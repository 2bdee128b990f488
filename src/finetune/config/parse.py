"""Parses the platform's string map into a checked `JobSpec`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from pydantic import ValidationError

from finetune.config.compat.settings import Setting
from finetune.config.compat.translate import translate
from finetune.config.default_strategy import with_default_strategy
from finetune.config.descriptions import all_hyperparameters
from finetune.config.faults import join_faults
from finetune.config.hyperparameters import (
    CheckpointSpec,
    DataSpec,
    DistributedSpec,
    FeatureSpec,
    JobSpec,
    ModelSpec,
    ObserveSpec,
    OptimizationSpec,
    RunSpec,
    StrategySpec,
)
from finetune.config.recipes import RecipeSpec
from finetune.config.section import Section
from finetune.config.unused import UNUSED_IN_SPEC, unused_hyperparameter_notes, unused_hyperparameters
from finetune.config.validation import contradictions
from finetune.errors import UserError

SectionType = TypeVar("SectionType", bound=Section)


def parse_hyperparameters(raw: Mapping[str, str], channels: Collection[str] = ()) -> JobSpec:
    """Read, translate and check hyperparameters as the platform delivers them.

    Args:
        raw: names (with `_` or `-`) and values as text, possibly encoded as JSON.
        channels: names of the channels of the job, on which defaults of some dialects depend.

    Raises:
        UserError: all faults of the request, one per line, within the length shown by the platform.
    """
    settings = translate(raw, channels)
    reader = _Reader({**settings.defaults, **settings.resolved})
    spec = JobSpec(
        data=reader.section(DataSpec),
        model=reader.section(ModelSpec),
        strategy=reader.section(StrategySpec),
        optimization=reader.section(OptimizationSpec),
        recipes=reader.section(RecipeSpec),
        run=reader.section(RunSpec),
        distributed=reader.section(DistributedSpec),
        checkpoint=reader.section(CheckpointSpec),
        features=reader.section(FeatureSpec),
        observe=reader.section(ObserveSpec),
    )
    spec = with_default_strategy(spec, {**settings.defaults, **settings.resolved}.keys())
    faults = [*settings.faults, *reader.faults.values(), *contradictions(spec, reader.faults.keys())]
    if faults:
        raise UserError(join_faults(faults))
    unused = unused_hyperparameters(UNUSED_IN_SPEC, spec, settings.resolved.keys())
    notes = (*settings.notes, *unused_hyperparameter_notes(unused))
    set_by_user = frozenset(settings.resolved.keys() - unused.keys())
    return replace(spec, notes=notes, set_by_user=set_by_user, objective=settings.objective, dialect=settings.dialect)


class _Reader:
    """Reads section by section and collects the values that could not be read.

    Attributes:
        faults: message by hyperparameter.
    """

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self._settings = settings
        self.faults: dict[str, str] = {}

    def section(self, section: type[SectionType]) -> SectionType:
        """Read one section; unreadable values are replaced by defaults, so that the other sections are checked."""
        names = [info.alias or field for field, info in section.model_fields.items()]
        texts = {name: self._settings[name].assignment.value for name in names if name in self._settings}
        try:
            return section.model_validate(texts)
        except ValidationError as error:
            invalid = {str(fault["loc"][0]) for fault in error.errors()}
        self.faults |= {name: self._fault(name) for name in names if name in invalid}
        return section.model_validate({name: texts[name] for name in texts.keys() - invalid})

    def _fault(self, name: str) -> str:
        setting, hyperparameter = self._settings[name], all_hyperparameters()[name]
        expected = "expected" if setting.name.replace("-", "_") == name else f"{name} must be"
        default = "" if hyperparameter.default == "None" else f" (default {hyperparameter.default})"
        return f"{setting.as_written} is not allowed: {expected} {hyperparameter.allowed}{default}."
