"""Reads from a transformers configuration which class each output of the head stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.models.heads import SourceHead
from finetune.models.transformers.folder import OpenedFolder
from finetune.models.weights.sources import ARTIFACT_FILE, CONFIG_FILE, read_json

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Names:
    """Class names in the order of the outputs; `None` where they are only numbered, or where `fault` says why not."""

    labels: tuple[str, ...] | None = None
    fault: str | None = None


def head_of(opened: OpenedFolder) -> SourceHead:
    """The head that a folder describes, before its tensors are looked at.

    The order of the classes is that of `id2label`, else of `label2id`, else unknown. A head whose classes are not
    certain, or that has none, cannot be kept: `uncertain` says why.
    """
    source, config = opened.source, opened.config
    raw = read_json(opened.folder / CONFIG_FILE, source.place)
    if source.labels is not None:
        uncertain = _other_names(source.labels, _names(raw).labels)
        return SourceHead(len(source.labels), source.labels, source.multi_label, uncertain=uncertain)
    several = None if config.problem_type is None else config.problem_type == "multi_label_classification"
    names = _names(raw)
    count = len(names.labels) if names.labels else int(config.num_labels)
    uncertain = _not_classes(config) or names.fault
    return SourceHead(count, names.labels, several, uncertain=uncertain)


def _other_names(labels: tuple[str, ...], theirs: tuple[str, ...] | None) -> str | None:
    """Where an artifact and its configuration name the classes in different orders, or name different ones."""
    if theirs is None or theirs == labels:
        return None
    return (
        f"{ARTIFACT_FILE} has labels={_some(list(labels))}, but {CONFIG_FILE} has id2label={_some(list(theirs))}: save"
        " the same names in both"
    )


def _not_classes(config: Any) -> str | None:  # noqa: ANN401 - untyped in transformers
    """Why the outputs are not classes: transformers takes a single output for a regression too."""
    kind, count = config.problem_type, config.num_labels
    if kind == "regression" or (kind is None and count == 1):
        return f"{CONFIG_FILE} describes a regression (problem_type={kind!r}, num_labels={count}), not classes"
    return None


def _names(raw: Mapping[str, object]) -> _Names:
    """The names in `id2label` and `label2id`; those that transformers makes up (LABEL_0) count as absent."""
    # transformers has read these already, so the keys are numbers.
    forwards = {int(str(number)): str(name) for number, name in _mapping(raw, "id2label")}
    backwards = _mapping(raw, "label2id")
    if any(not _is_number(number) for _, number in backwards):
        return _Names(fault=f"{CONFIG_FILE} has label2id={_some(backwards)}: each class needs a number")
    numbers = {str(name): int(str(number)) for name, number in backwards}
    if numbers == {name: number for number, name in made_up_names(len(numbers)).items()}:
        numbers = {}
    sizes = {"num_labels": raw.get("num_labels"), "id2label": len(forwards), "label2id": len(numbers)}
    if forwards == made_up_names(len(forwards)):
        forwards = {}
    names = forwards or {number: name for name, number in numbers.items()}
    fault = _fault(names, "id2label" if forwards else "label2id", numbers)
    fault = fault or _contradiction(forwards, numbers) or _miscounted(sizes)
    if fault or not names:
        return _Names(fault=fault)
    return _Names(tuple(names[number] for number in range(len(names))))


def _miscounted(sizes: Mapping[str, object]) -> str | None:
    """Where the fields that are there differ in the number of classes."""
    stated = {field: size for field, size in sizes.items() if isinstance(size, int) and size > 0}
    if len(set(stated.values())) < 2:
        return None
    return (
        f"{CONFIG_FILE} contradicts itself: {', '.join(f'{size} classes in {name}' for name, size in stated.items())}"
    )


def made_up_names(count: int) -> dict[int, str]:
    """The names that transformers gives to classes without names."""
    return {number: f"LABEL_{number}" for number in range(count)}


def _contradiction(forwards: Mapping[int, str], numbers: Mapping[str, int]) -> str | None:
    """Where the two say different things about a class."""
    if not forwards or not numbers:
        return None
    theirs = {name: number for number, name in forwards.items()}
    names = sorted(name for name in {*theirs, *numbers} if theirs.get(name) != numbers.get(name))
    if not names:
        return None
    name = names[0]
    said = [f"{name!r} is {theirs[name]} in id2label" if name in theirs else f"{name!r} is not in id2label"]
    said += [f"{numbers[name]} in label2id" if name in numbers else "not in label2id"]
    return f"{CONFIG_FILE} contradicts itself: {' and '.join(said)}"


def _fault(names: Mapping[int, str], field: str, numbers: Mapping[str, int]) -> str | None:
    if field == "label2id" and len(names) < len(numbers):
        return f"{CONFIG_FILE} has label2id={_some(list(numbers.items()))}: two classes have the same number"
    if sorted(names) != list(range(len(names))):
        return f"{CONFIG_FILE} numbers its classes {_some(sorted(names))} in {field}, not 0 to {len(names) - 1}"
    by_name: dict[str, list[int]] = {}
    for number, name in sorted(names.items()):
        by_name.setdefault(name, []).append(number)
    twice = next(((name, several) for name, several in by_name.items() if len(several) > 1), None)
    if twice:
        return f"{CONFIG_FILE} has the class {twice[0]!r} more than once in {field} ({_some(twice[1])})"
    return None


def _mapping(raw: Mapping[str, object], field: str) -> list[tuple[object, object]]:
    value = raw.get(field)
    return list(value.items()) if isinstance(value, dict) else []


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, str) and value.isdecimal()))


def _some(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN])
    return f"{shown}, …" if len(values) > _SHOWN else shown
