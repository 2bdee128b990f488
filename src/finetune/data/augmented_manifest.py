"""Which pictures or texts does an augmented manifest in a channel's folder name, with which classes?

JSON Lines as Ground Truth writes them: `source-ref` names the object, or `source` holds the text; further attributes
hold the label and, with `-metadata` at the end of their name, what is known about it. Source: "Input and output data"
in the developer guide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from finetune.data.channel_files import Listing, ending_of, some_of
from finetune.data.image_folder import ImageFolderReader
from finetune.data.record import Reader
from finetune.data.streams.attribute_labels import attribute_classes
from finetune.data.text_lines import text_lines
from finetune.data.text_table import TextExample, TextTableReader, texts_of
from finetune.errors import DataError, UserError, did_you_mean
from finetune.spec.job_spec import DataSpec

MANIFEST_ENDING = ".manifest"

_SOURCE, _TEXT, _METADATA = "source-ref", "source", "-metadata"


@dataclass(frozen=True, slots=True)
class _Line:
    key: str
    number: int
    where: str
    attributes: Mapping[str, object]


def manifests_of(listing: Listing) -> list[str]:
    """The files of a channel that are augmented manifests by their ending."""
    return [key for key in listing.keys if ending_of(key) == MANIFEST_ENDING]


def read_augmented_manifest(listing: Listing, spec: DataSpec, *, class_ids: bool) -> Reader:
    """Read every manifest of a channel, in the order of their names.

    An object is looked for in the channel by the end of its address: of `s3://bucket/a/b/c.png` first as `a/b/c.png`,
    then as `b/c.png`, then as `c.png`. So nothing outside of the channel is read.

    Args:
        listing: the channel's files.
        spec: which attributes, and the task; without one, `source` in the first line says that they are texts.
        class_ids: whether a list as label holds class numbers even where it could be a row of 0 and 1.

    Raises:
        DataError: a line is no JSON object, lacks source or label, or names an object that is not there, or a picture
            that was named.
        UserError: the label's attribute cannot be told.
    """
    lines = (line for key in manifests_of(listing) for line in _lines(listing, key))
    first = next(lines, None)
    if first is None:
        raise DataError(f"channel {listing.channel!r}: its manifests are empty; expected is a JSON object per line")
    present = frozenset(listing.keys)
    if spec.task == "text-classification" or (spec.task is None and _holds_text(first)):
        examples = [
            TextExample(line.key, line.number, _texts(line, listing, present), _classes(line, spec, class_ids))
            for line in chain([first], lines)
        ]
        return TextTableReader(listing.channel, examples, ())
    pictures: dict[str, tuple[str, ...]] = {}
    for line in chain([first], lines):
        path = _path(line, listing, present)
        if path in pictures:
            raise DataError(f"{line.where}: {path!r} was named before; name it once")
        pictures[path] = _classes(line, spec, class_ids)
    return ImageFolderReader(listing.channel, listing.root, sorted(pictures.items()))


def _holds_text(line: _Line) -> bool:
    return isinstance(line.attributes.get(_TEXT), str) and _SOURCE not in line.attributes


def _texts(line: _Line, listing: Listing, present: frozenset[str]) -> tuple[str, ...]:
    """The text that a line holds, or that of the object that it names."""
    try:
        if isinstance(line.attributes.get(_TEXT), str):
            return texts_of([line.attributes[_TEXT]])
        return texts_of([(listing.root / _path(line, listing, present)).read_text(encoding="utf-8-sig")])
    except OSError as error:
        raise DataError(f"{line.where}: its text cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{line.where}: {error}") from error


def _lines(listing: Listing, key: str) -> Iterator[_Line]:
    for number, text in text_lines(listing.channel, listing.root, key):
        if not text.strip():
            continue
        where = f"channel {listing.channel!r}: {key}, line {number}"
        try:
            attributes = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {str(error)[:100]}") from error
        if not isinstance(attributes, dict):
            raise DataError(f"{where} is not a JSON object; expected is one with {_SOURCE!r} and a label")
        yield _Line(key, number, where, attributes)


def _path(line: _Line, listing: Listing, present: frozenset[str]) -> str:
    source = line.attributes.get(_SOURCE)
    if not isinstance(source, str):
        raise DataError(f"{line.where} has no {_SOURCE!r} that names an object, only {_list(line.attributes)}")
    parts = source.partition("://")[2].split("/")[1:] if "://" in source else source.split("/")
    for start in range(len(parts)):
        path = "/".join(parts[start:])
        if path in present:
            return path
    raise DataError(
        f"{line.where} names {some_of([repr(source)])}, but channel {listing.channel!r} has no such file in"
        f" {listing.root}; correct the address or add the object"
    )


def _classes(line: _Line, spec: DataSpec, class_ids: bool) -> tuple[str, ...]:
    name = _label_attribute(line, spec)
    label, metadata = line.attributes[name], line.attributes.get(f"{name}{_METADATA}")
    try:
        noted = None if metadata is None else _json(metadata)
        return attribute_classes(_json(label), noted, multi_label=spec.multi_label, class_ids=class_ids)
    except ValueError as error:
        raise DataError(f"{line.where}, attribute {name!r}: {error}") from error


def _label_attribute(line: _Line, spec: DataSpec) -> str:
    attributes = line.attributes
    given = spec.label_column or next((one for one in spec.attribute_names if _may_be_label(one)), None)
    if given is not None:
        if given not in attributes:
            raise UserError(
                f"{line.where} has no attribute {given!r}{did_you_mean(given, attributes)}, which label_column or"
                f" attribute_names gives, only {_list(attributes)}"
            )
        return given
    candidates = [name for name in attributes if _may_be_label(name)]
    if len(candidates) != 1:
        raise UserError(f"{line.where}: which attribute is the label? Set label_column to one of {_list(attributes)}")
    return candidates[0]


def _may_be_label(name: str) -> bool:
    return name != _TEXT and not name.endswith(("-ref", _METADATA))


def _json(value: object) -> memoryview:
    return memoryview(json.dumps(value).encode())


def _list(attributes: Mapping[str, object]) -> str:
    return some_of([repr(name) for name in attributes], 8) or "nothing"
