"""Reads the images or texts listed in augmented manifests of a channel, with their classes.

Manifests are JSON Lines as written by Ground Truth: `source-ref` is the address of an object, or `source` contains the
text. Other attributes contain the label and, with the suffix `-metadata`, its metadata. Source: "Input and output data"
in the developer guide.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from finetune.config.hyperparameters import DataSpec
from finetune.data.bad_records import too_many_message
from finetune.data.formats.attribute_labels import attribute_classes
from finetune.data.json_text import parse_json
from finetune.data.readers.channel_files import Listing, ending_of, some_of
from finetune.data.readers.image_folder import ImageFolderReader
from finetune.data.readers.missing_files import missing_file_reason
from finetune.data.record import Reader
from finetune.data.tables.reader import TextExample, TextTableReader, parse_texts
from finetune.data.tables.text_lines import text_lines
from finetune.errors import DataError, UserError, did_you_mean

_log = logging.getLogger(__name__)

MANIFEST_ENDING = ".manifest"

_SOURCE, _TEXT_SOURCE, _METADATA = "source-ref", "source", "-metadata"


@dataclass(frozen=True, slots=True)
class _Line:
    key: str
    number: int
    attributes: Mapping[str, object]
    fault: str

    @property
    def where(self) -> str:
        """Manifest and line number, for messages."""
        return f"{self.key}, line {self.number}"


@dataclass(frozen=True, slots=True)
class _Context:
    """Data shared by all lines: the channel's files and the attributes that occur in any line."""

    listing: Listing
    spec: DataSpec
    class_ids: bool
    keys: frozenset[str]
    attributes: frozenset[str]


def manifests_of(listing: Listing) -> list[str]:
    """Return the augmented manifests of a channel, recognized by their file ending."""
    return [key for key in listing.keys if ending_of(key) == MANIFEST_ENDING]


def read_augmented_manifest(listing: Listing, spec: DataSpec, *, class_ids: bool) -> Reader:
    """Read all manifests of a channel in name order.

    Objects are located in the channel by the end of their address: `s3://bucket/a/b/c.png` is looked up as `a/b/c.png`,
    then `b/c.png`, then `c.png`. Thus no file outside the channel is read.

    Lines that cannot be used, such as objects that Ground Truth failed to label, are skipped if there are at most
    `max_bad_records` of them.

    Args:
        listing: the channel's files.
        spec: attribute names and task; without a task, `source` in the first line indicates texts.
        class_ids: whether a list label contains class numbers even if it could be a row of 0/1 flags.

    Raises:
        DataError: if too many lines cannot be used, or an image is listed twice.
        UserError: if the label attribute cannot be determined.
    """
    lines = [line for key in manifests_of(listing) for line in _read_lines(listing, key)]
    if not lines:
        raise DataError(f"channel {listing.channel!r}: the manifests are empty; expected a JSON object per line")
    usable = [line for line in lines if not line.fault]
    context = _Context(
        listing,
        spec,
        class_ids,
        frozenset(listing.keys),
        frozenset(name for line in usable for name in line.attributes),
    )
    has_text = spec.task == "text-classification" or (spec.task is None and bool(usable) and _has_text(usable[0]))
    examples: list[TextExample] = []
    images: dict[str, tuple[str, ...]] = {}
    locations: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for line in lines:
        try:
            if line.fault:
                raise ValueError(line.fault)
            if has_text:
                examples.append(TextExample(line.key, line.number, _texts(line, context), _line_classes(line, context)))
                continue
            path = _source_path(line, context)
            if path in images:
                raise DataError(
                    f"channel {listing.channel!r}: {line.where}: {path!r} is already listed in {locations[path]};"
                    " list each image once"
                )
            images[path] = _line_classes(line, context)
            locations[path] = line.where
        except ValueError as error:
            left_out.append((line.where, str(error)))
            if len(left_out) > spec.max_bad_records:
                raise DataError(
                    too_many_message(listing.channel, left_out[-1], len(left_out), spec.max_bad_records)
                ) from error
    if left_out:
        _log.warning(
            "channel %r: skipped %d manifest lines, such as %s, which %s", listing.channel, len(left_out), *left_out[0]
        )
    if not examples and not images:
        raise DataError(f"channel {listing.channel!r}: the manifests have no usable line: {' '.join(left_out[0])}")
    if has_text:
        return TextTableReader(listing.channel, examples, left_out)
    reader = ImageFolderReader(listing.channel, listing.root, sorted(images.items()))
    reader.left_out = tuple(left_out)
    return reader


def _has_text(line: _Line) -> bool:
    return isinstance(line.attributes.get(_TEXT_SOURCE), str) and _SOURCE not in line.attributes


def _texts(line: _Line, context: _Context) -> tuple[str, ...]:
    """Return the text in a line, or the content of the text file it refers to.

    Raises:
        ValueError: if there is no readable text.
    """
    if isinstance(line.attributes.get(_TEXT_SOURCE), str):
        return parse_texts([line.attributes[_TEXT_SOURCE]])
    path = _source_path(line, context)
    try:
        return parse_texts([(context.listing.root / path).read_text(encoding="utf-8-sig")])
    except OSError as error:
        raise ValueError(f"names text file {path!r}, which cannot be read: {error.strerror}") from error


def _read_lines(listing: Listing, key: str) -> Iterator[_Line]:
    for number, text in text_lines(listing.channel, listing.root, key):
        if not text.strip():
            continue
        attributes: object = None
        try:
            attributes = parse_json(text)
            fault = "" if isinstance(attributes, dict) else "is not a JSON object"
        except ValueError as error:
            fault = f"is not JSON: {str(error)[:100]}"
        yield _Line(key, number, attributes if isinstance(attributes, dict) else {}, fault)


def _source_path(line: _Line, context: _Context) -> str:
    source = line.attributes.get(_SOURCE)
    if not isinstance(source, str):
        raise ValueError(
            f"has no attribute {_SOURCE!r} with the address of an object; its attributes are"
            f" {_attribute_list(line.attributes)}"
        )
    parts = source.partition("://")[2].split("/")[1:] if "://" in source else source.split("/")
    for start in range(len(parts)):
        path = "/".join(parts[start:])
        if path in context.keys:
            return path
    reason = missing_file_reason(source, "/".join(parts), context.listing)
    raise ValueError(f"{reason}; correct the address or add the object")


def _line_classes(line: _Line, context: _Context) -> tuple[str, ...]:
    name = _label_attribute(line, context)
    label, metadata = line.attributes[name], line.attributes.get(f"{name}{_METADATA}")
    spec = context.spec
    try:
        encoded_metadata = None if metadata is None else _encode_json(metadata)
        return attribute_classes(
            _encode_json(label),
            encoded_metadata,
            multi_label=spec.multi_label,
            class_ids=context.class_ids,
            class_names=spec.class_names,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has an unusable label in attribute {name!r}: {error}") from error


def _label_attribute(line: _Line, context: _Context) -> str:
    """Return the name of the label attribute.

    Raises:
        UserError: if no line has the requested attribute, or several attributes could be the label.
        ValueError: if the line has no label.
    """
    attributes, spec = line.attributes, context.spec
    where = f"channel {context.listing.channel!r}: {line.where}"
    requested = spec.label_column or next((name for name in spec.attribute_names if _may_be_label(name)), None)
    if (
        requested is not None
        and requested not in context.attributes
        and f"{requested}{_METADATA}" not in context.attributes
    ):
        raise UserError(
            f"{where} has no attribute {requested!r}{did_you_mean(requested, attributes)}; its attributes are"
            f" {_attribute_list(attributes)}; correct label_column or attribute_names"
        )
    candidates = [name for name in attributes if _may_be_label(name) and requested in (None, name)]
    if not candidates:
        raise ValueError(f"has no label{_failure_reason(attributes)}; its attributes are {_attribute_list(attributes)}")
    if len(candidates) > 1:
        raise UserError(
            f"{where} has several attributes that may be the label; set label_column to one of"
            f" {_attribute_list(candidates)}"
        )
    return candidates[0]


def _failure_reason(attributes: Mapping[str, object]) -> str:
    """Return Ground Truth's reason for a missing label, if the metadata contains one."""
    for value in attributes.values():
        if isinstance(value, Mapping) and "failure-reason" in value:
            return f" (failure-reason: {str(value['failure-reason'])[:200]})"
    return ""


def _may_be_label(name: str) -> bool:
    return name != _TEXT_SOURCE and not name.endswith(("-ref", _METADATA))


def _encode_json(value: object) -> memoryview:
    return memoryview(json.dumps(value).encode())


def _attribute_list(attributes: Iterable[str]) -> str:
    return some_of([repr(name) for name in attributes], 8) or "none"
