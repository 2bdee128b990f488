"""Translates a request into the names of this project, and resolves conflicts between its names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune.config.compat.alias import ANY, Claim
from finetune.config.compat.aliases import ALIASES, OBJECTIVE, PLATFORM_NAMES, SYNONYMS
from finetune.config.descriptions import all_hyperparameters
from finetune.config.faults import shown
from finetune.config.values import Form, read_value, unquoted
from finetune.errors import did_you_mean


@dataclass(frozen=True, slots=True)
class Setting:
    """A claim with its origin in the request.

    Attributes:
        name: as the user wrote it.
        text: the value as the user wrote it.
        claim: the translated claim.
    """

    name: str
    text: str
    claim: Claim

    @property
    def said(self) -> str:
        """The setting as the user wrote it, for messages."""
        return f"{self.name}={shown(self.text)}"


@dataclass(slots=True)
class Settings:
    """The request translated to the names of this project.

    Attributes:
        chosen: setting by hyperparameter.
        notes: translated or ignored settings.
        faults: unknown names, values without a translation, and names that contradict each other.
        objective: objective metric of a tuner.
    """

    chosen: dict[str, Setting] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    objective: str | None = None


def translate(raw: Mapping[str, str]) -> Settings:
    """Translate the names of other tools, and resolve multiple claims on one hyperparameter."""
    settings = Settings()
    request = {_canonical(name): text for name, text in raw.items()}
    found: list[Setting] = []
    for name, text in raw.items():
        found += _understand(name, text, request, settings)
    by_knob: dict[str, list[Setting]] = {}
    for setting in sorted(found, key=lambda setting: _canonical(setting.name) != setting.claim.knob):
        by_knob.setdefault(setting.claim.knob, []).append(setting)
    for knob, rivals in by_knob.items():
        _settle(knob, rivals, settings)
    settings.notes[:0] = _translations(found, settings)
    return settings


def _canonical(name: str) -> str:
    return name.strip().replace("-", "_")


def _understand(name: str, text: str, request: Mapping[str, str], settings: Settings) -> list[Setting]:
    canonical = _canonical(name)
    if canonical in all_hyperparameters():
        value = SYNONYMS.get((canonical, unquoted(text).lower()), text)
        return [Setting(name, text, Claim(canonical, value))]
    if canonical in ALIASES:
        return _understand_alias(name, text, request, settings)
    if canonical == OBJECTIVE:
        settings.objective = unquoted(text)
        settings.notes.append(f"The tuner looks at the metric {shown(text)}.")
    elif not canonical.startswith(PLATFORM_NAMES):
        near = did_you_mean(canonical, [*all_hyperparameters(), *ALIASES])
        settings.faults.append(f"Unknown hyperparameter {shown(name)}{near}: correct its name or leave it out.")
    return []


def _understand_alias(name: str, text: str, request: Mapping[str, str], settings: Settings) -> list[Setting]:
    try:
        translation = ALIASES[_canonical(name)].translate(text, request)
    except ValueError as allowed:
        settings.faults.append(f"{name}={shown(text)} has no counterpart here: allowed is {allowed}.")
        return []
    if translation.ignored_because is not None:
        settings.notes.append(f"{name}={shown(text)} is ignored: {translation.ignored_because}.")
    return [Setting(name, text, claim) for claim in translation.claims]


def _settle(knob: str, rivals: list[Setting], settings: Settings) -> None:
    """Choose the first claim compatible with all others, preferring the hyperparameter's own name over aliases."""
    form = all_hyperparameters()[knob].form
    overriding = [setting for setting in rivals if setting.claim.overrides]
    if overriding:
        settings.chosen[knob] = overriding[0]
        dropped = (setting for setting in rivals if not setting.claim.overrides)
        settings.notes += [f"{setting.said} is ignored: {overriding[0].said}." for setting in dropped]
        return
    for candidate in rivals:
        if all(_fulfils(candidate.claim.value, setting.claim, form) for setting in rivals):
            settings.chosen[knob] = candidate
            return
    settings.chosen[knob] = rivals[0]
    said = " and ".join(setting.said for setting in rivals)
    settings.faults.append(f"{said} contradict each other: both set {knob}, so leave one of them out.")


def _fulfils(value: str, claim: Claim, form: Form) -> bool:
    return claim.also is ANY or any(_same(value, other, form) for other in (claim.value, *claim.also))


def _same(one: str, other: str, form: Form) -> bool:
    try:
        return read_value(one, form) == read_value(other, form)
    except ValueError:
        return one == other


def _translations(found: list[Setting], settings: Settings) -> list[str]:
    """Describe the translation of each alias whose value was chosen."""
    meanings: dict[tuple[str, str], list[str]] = {}
    for setting in found:
        claim = setting.claim
        own_word = _canonical(setting.name) == claim.knob and setting.text == claim.value
        if settings.chosen[claim.knob].claim.value == claim.value and not own_word:
            remark = f", {claim.remark}" if claim.remark else ""
            meanings.setdefault((setting.name, setting.text), []).append(
                f"{claim.knob}={unquoted(claim.value)}{remark}"
            )
    return [f"{name}={shown(text)} is read as {' and '.join(words)}." for (name, text), words in meanings.items()]
