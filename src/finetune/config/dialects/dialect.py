"""Definition of a dialect: the names by which a tool's requests are recognized, and its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

DialectName = Literal[
    "mxnet_image_classification",
    "tensorflow_image_classification",
    "tensorflow_text_classification",
    "blazingtext",
    "jumpstart",
    "huggingface",
]


@dataclass(frozen=True, slots=True)
class Situation:
    """Values and channels of a request, on which a default may depend.

    Attributes:
        values: values of the hyperparameters that are set so far, as text, by name.
        channels: names of the channels of the job.
    """

    values: Mapping[str, str]
    channels: frozenset[str] = frozenset()

    def is_set(self, *names: str) -> bool:
        """Whether any of these hyperparameters is set."""
        return any(name in self.values for name in names)


Condition = Callable[[Situation], bool]


def always(_: Situation) -> bool:
    """Condition of a default that always applies."""
    return True


def with_optimizer(*names: str) -> Condition:
    """Condition of a default that applies to some optimizers."""
    return lambda situation: situation.values.get("optimizer") in names


def with_new_model(situation: Situation) -> bool:
    """Condition of a default that does not apply to a model from an earlier job, in the channel `model`."""
    return "model" not in situation.channels


def without(*names: str) -> Condition:
    """Condition of a default that applies unless one of these hyperparameters is set."""
    return lambda situation: not situation.is_set(*names)


@dataclass(frozen=True, slots=True)
class Default:
    """A tool's default for a hyperparameter of this project.

    Attributes:
        hyperparameter: name in this project.
        value: as text; with `same_as`, unused.
        condition: whether it applies.
        same_as: another hyperparameter whose value it takes.
    """

    hyperparameter: str
    value: str = ""
    condition: Condition = always
    same_as: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A tool whose requests this project reads as the tool does.

    Attributes:
        name: value of the hyperparameter `dialect`.
        tool: name of the tool.
        identified_by: names that only this tool has.
        shared_names: names that this tool shares with a related one; they identify it if nothing else does.
        defaults: in the order in which they are applied; a later one may depend on earlier ones.
        optimizer_options: for hyperparameters that the tool uses with some optimizers only: these optimizers.
        ignored: hyperparameters whose values mean something else in the tool, with the reason.
        evaluates_on_test: whether the channel `test` has the role of `validation` if there is no `validation`.
    """

    name: DialectName
    tool: str
    identified_by: frozenset[str]
    defaults: tuple[Default, ...]
    shared_names: frozenset[str] = frozenset()
    optimizer_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    evaluates_on_test: bool = False


@dataclass(frozen=True, slots=True)
class AppliedDialect:
    """The dialect of a request.

    Attributes:
        name: name of the dialect.
        tool: name of the tool.
        evidence: names in the request that identify it; empty if the user chose it.
        defaults: the tool's defaults that apply, as text, by hyperparameter.
        evaluates_on_test: see `Dialect`.
    """

    name: DialectName
    tool: str
    evidence: tuple[str, ...]
    defaults: Mapping[str, str]
    evaluates_on_test: bool

    @property
    def summary(self) -> str:
        """One line for the plan, with all defaults that apply."""
        reason = f"recognized by {', '.join(self.evidence)}" if self.evidence else f"dialect={self.name}"
        applied = ", ".join(f"{name}={value}" for name, value in self.defaults.items()) or "none is needed"
        remedy = "dialect=none selects those of this image" if self.evidence else "your own values take precedence"
        return f"{self.tool} ({reason}); its defaults apply: {applied}; {remedy}"
