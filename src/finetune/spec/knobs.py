"""How is a knob described to people, in messages and in the documentation?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from finetune.spec.hyperparameters import SECTIONS, Section
from finetune.spec.values import Form, form_of


@dataclass(frozen=True, slots=True)
class Knob:
    """One hyperparameter.

    Attributes:
        name: as the user writes it.
        section: title of its section.
        form: how its text is read.
        allowed: its values in words, such as `a whole number, at least 1`.
        default: as the user would write it, `None` where nothing is the default.
        help: what it does.
    """

    name: str
    section: str
    form: Form
    allowed: str
    default: str
    help: str


@cache
def all_knobs() -> dict[str, Knob]:
    """Every knob by name, in the order of the sections."""
    return {
        knob.name: knob
        for section in SECTIONS
        for field, info in section.model_fields.items()
        for knob in [_knob(section, field, info)]
    }


def title_of(section: type[Section]) -> str:
    """First word of a section's docstring, which is its title."""
    return str(section.__doc__).partition(":")[0]


def _knob(section: type[Section], field: str, info: FieldInfo) -> Knob:
    form = form_of(info.annotation)
    return Knob(
        name=info.alias or field,
        section=title_of(section),
        form=form,
        allowed=_allowed(form, info),
        default=written(info.default),
        help=str(info.description),
    )


def written(value: object) -> str:
    """A value as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value) or "None"
    return str(value)


def _allowed(form: Form, info: FieldInfo) -> str:
    if form.kind == "one of":
        words = "one of " + ", ".join(form.choices)
    elif form.kind == "list of whole numbers":
        words = "whole numbers with commas between them"
    elif form.kind == "true or false":
        words = "true or false"
    elif any(hasattr(part, "pattern") for part in info.metadata):
        words = "s3://bucket/prefix"
    elif form.kind == "text":
        words = "text"
    else:
        words = f"a {form.kind}" + _range(info)
    return f"{words}, or None" if form.optional else words


def _range(info: FieldInfo) -> str:
    bounds = []
    for part in info.metadata:
        match part:
            case Ge(ge=bound):
                bounds.append(f"at least {bound}")
            case Gt(gt=bound):
                bounds.append(f"above {bound}")
            case Le(le=bound):
                bounds.append(f"at most {bound}")
            case Lt(lt=bound):
                bounds.append(f"below {bound}")
    return f", {' and '.join(bounds)}" if bounds else ""
