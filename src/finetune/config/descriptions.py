"""Descriptions of hyperparameters for messages and the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pydantic.fields import FieldInfo

from finetune.config.hyperparameters import SECTIONS
from finetune.config.section import Section
from finetune.config.values import ValueFormat, infer_format


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One hyperparameter.

    Attributes:
        name: as the user writes it.
        section: title of its section.
        format: format of its text.
        limits: of its values, such as `at least 1`; empty if there are none.
        default: as the user would write it.
        help: one-line description.
    """

    name: str
    section: str
    format: ValueFormat
    limits: str
    default: str
    help: str

    @property
    def allowed(self) -> str:
        """Allowed values in words, such as `an integer, at least 1, or None`."""
        match self.format.kind:
            case "one of":
                words = f"one of {', '.join(self.format.choices)}"
            case "one of, or numbers by name":
                words = f"one of {', '.join(self.format.choices)}, or a JSON object of numbers by name"
            case "boolean":
                words = "true or false"
            case "integer":
                words = "an integer"
            case kind:
                words = f"a {kind}"
        return words + (f", {self.limits}" if self.limits else "") + (", or None" if self.format.optional else "")


@cache
def all_hyperparameters() -> dict[str, Hyperparameter]:
    """All hyperparameters by name, in the order of the sections."""
    return {
        hyperparameter.name: hyperparameter
        for section in SECTIONS
        for field, info in section.model_fields.items()
        for hyperparameter in [_describe(section, field, info)]
    }


def heading(section: type[Section]) -> tuple[str, str]:
    """Title and sentence of a section, separated by a colon in its docstring."""
    title, _, sentence = str(section.__doc__).partition(": ")
    return title, sentence[:1].upper() + sentence[1:]


def _describe(section: type[Section], field: str, info: FieldInfo) -> Hyperparameter:
    value_format = infer_format(info.annotation)
    return Hyperparameter(
        name=info.alias or field,
        section=heading(section)[0],
        format=value_format,
        limits="separated by commas" if value_format.kind.startswith("list of") else _describe_limits(info),
        default=_format_default(info.default),
        help=str(info.description),
    )


def _format_default(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value) or "None"
    return str(value)


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _describe_limits(info: FieldInfo) -> str:
    bounds = [
        f"{words} {bound}"
        for part in info.metadata
        for attribute, words in _BOUNDS.items()
        if (bound := getattr(part, attribute, None)) is not None
    ]
    if any(getattr(part, "pattern", None) for part in info.metadata):
        bounds.append("of the form s3://bucket/prefix")
    return " and ".join(bounds)
