"""Parses the label attributes of augmented manifests into class names.

Source: "Use Augmented Manifest Files" and the label category pages of Ground Truth in the developer guide.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from finetune.data.json_text import parse_json
from finetune.data.label_parsing import label_name, label_names

_NAME_KEYS = ("class-name", "class_name", "class", "label", "name")


def attribute_classes(
    label: memoryview,
    metadata: memoryview | None,
    *,
    multi_label: bool,
    class_ids: bool,
    class_names: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the class names of a record.

    Args:
        label: JSON (a number, a string, a list, or an object with a class name) or plain text.
        metadata: JSON metadata that Ground Truth writes next to the label; its class names override numbers.
        multi_label: whether a list contains several classes.
        class_ids: whether a list contains class numbers even if it could be a row of 0/1 flags.
        class_names: class names declared in the request.

    Raises:
        ValueError: if the label is missing or malformed.
    """
    names = _class_names(_parse_json(metadata), class_names, multi_label=multi_label) if metadata is not None else None
    if names:
        return names
    value = _parse_json(label)
    if isinstance(value, dict):
        names = _class_names(value, class_names, multi_label=multi_label)
        if not names:
            raise ValueError(
                f"has an object without a class name as its label; expected one of the keys {', '.join(_NAME_KEYS)}"
            )
        return names
    if multi_label and not class_ids and isinstance(value, list) and _are_flags(value):
        return tuple(str(number) for number, flag in enumerate(value) if flag)
    return label_names(value, multi_label=multi_label, class_names=class_names)


def _parse_json(content: memoryview) -> object:
    text = bytes(content).decode("utf-8")
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return text


def _class_names(value: object, class_names: Collection[str], *, multi_label: bool) -> tuple[str, ...] | None:
    if not isinstance(value, Mapping):
        return None
    classes = value.get("class-map")
    if isinstance(classes, Mapping) and multi_label:
        return tuple(sorted(name for entry in classes.values() if (name := label_name(entry)) is not None))
    for key in _NAME_KEYS:
        if key in value:
            return label_names(value[key], multi_label=multi_label, class_names=class_names)
    return None


def _are_flags(values: list[object]) -> bool:
    return len(values) > 1 and all(value in (0, 1) for value in values)
