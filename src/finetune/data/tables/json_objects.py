"""Splits JSON Lines and arrays of JSON objects into objects, for both files and streams."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from finetune.config.hyperparameters import DataSpec
from finetune.data.json_text import parse_json
from finetune.data.tables.column_statistics import cell_text, compute_statistics
from finetune.data.tables.columns import Columns, SharedColumns, choose_columns
from finetune.errors import DataError

MAX_OBJECT_BYTES = 1 << 26
"""Maximum object size in bytes. A longer object is considered damaged."""

_LINE_BYTES = 50
"""Memory overhead of a line in bytes."""
_BYTE_ORDER_MARK = "\ufeff"
_CONCATENATED = b"}{"
_ARRAY = re.compile(rb"\[\s*(?:\{|\]|$)")
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}]|[^\s"{}\[\],:]++')
_DECODER = json.JSONDecoder()
_MAX_SAMPLED_OBJECTS = 1000
_EXPECTED = 'expected one object per record, as written by pandas: to_json(orient="records", lines=True)'


def json_objects(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the text of each object with the line on which it begins, from 1.

    If the first line starts an array of objects, or is only an opening brace, objects may span several lines.
    Otherwise, each line contains one object, or several if the last line of a file lacked a newline. Other values are
    yielded too; `parse_object` refuses them.

    Args:
        lines: lines without their line ends.
    """
    stripped = (
        (number, line.strip(b" \t\r").removeprefix(_BYTE_ORDER_MARK.encode())) for number, line in enumerate(lines, 1)
    )
    first = next(((number, line) for number, line in stripped if line), None)
    if first is None:
        return
    numbered_lines = _chain(first, stripped)
    if first[1] == b"{" or _ARRAY.match(first[1]):
        yield from _split_document(numbered_lines)
        return
    for number, line in numbered_lines:
        for text in _split_line(line):
            yield number, text


def parse_object(text: bytes) -> dict[str, object]:
    """Parse the text of an object.

    Raises:
        UnicodeDecodeError: if the text is not UTF-8.
        ValueError: if the text is not a JSON object; the message follows the record's name.
    """
    try:
        value = parse_json(text.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise ValueError(str(error)[:200]) from error
    if isinstance(value, list):
        raise ValueError(f"is not a JSON object but a list of values; {_EXPECTED}")
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def choose_keys(
    lines: Sequence[bytes], spec: DataSpec, where: str, shared: SharedColumns | None = None
) -> Columns | None:
    """Choose the keys of label and texts from the first objects, since a single object may lack some keys.

    Args:
        lines: the first lines.
        spec: data hyperparameters.
        where: channel and file, for messages.
        shared: columns of other tables of the job.

    Returns:
        The keys, or `None` if no line contains an object.

    Raises:
        DataError: if a single object contains all records.
        UserError: if the choice of keys is ambiguous.
    """
    records: list[dict[str, object]] = []
    for _, text in islice(json_objects(lines), _MAX_SAMPLED_OBJECTS):
        with suppress(ValueError):  # Reported with its line when it is read as a record.
            records.append(parse_object(text))
    names = tuple(dict.fromkeys(name for record in records for name in record))
    if not names:
        return None
    if len(records) == 1 and _contains_all_records(records[0]):
        raise DataError(f"{where} is a single JSON object that contains all records; {_EXPECTED}")
    rows = [[cell_text(record.get(name)) for name in names] for record in records]
    statistics = compute_statistics(rows, len(names), multi_label=spec.multi_label)
    shared = shared or SharedColumns()
    columns = choose_columns(names, shared.apply_to(spec, names), where, dict(zip(names, statistics, strict=True)))
    shared.store(columns)
    return columns


def _contains_all_records(value: dict[str, object]) -> bool:
    """Return whether an object contains a list or an object of values per column, or a list of records."""
    if any(isinstance(item, list) and item and isinstance(item[0], dict | list) for item in value.values()):
        return True
    return len(value) > 1 and all(isinstance(item, dict | list) for item in value.values())


def _chain(first: tuple[int, bytes], rest: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    yield first
    yield from rest


def _split_document(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield objects delimited by their braces, regardless of arrays and lines, and other values one by one."""
    parts: list[bytes] = []
    depth = first_line = size = 0
    for number, line in lines:
        start = 0
        for token in _TOKEN.finditer(line):
            if token[0] == b"{":
                if depth == 0:
                    first_line, start = number, token.start()
                depth += 1
            elif token[0] == b"}" and depth:
                depth -= 1
                if depth == 0:
                    yield first_line, b"\n".join([*parts, line[start : token.end()]])
                    parts, size = [], 0
            elif depth == 0:
                yield number, token[0]
        if depth:
            parts.append(line[start:])
            size += len(parts[-1]) + _LINE_BYTES
            if size > MAX_OBJECT_BYTES:
                raise DataError(
                    f"the JSON object that begins on line {first_line} is longer than {MAX_OBJECT_BYTES:,} bytes"
                )
    if depth:
        yield first_line, b"\n".join(parts)


def _split_line(line: bytes) -> Iterator[bytes]:
    if _CONCATENATED not in line and _BYTE_ORDER_MARK.encode() not in line:
        if line:
            yield line
        return
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        yield line
        return
    position = 0
    while (position := _skip_blanks(text, position)) < len(text):
        try:
            _, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = len(text)
        yield text[position:end].encode()
        position = end


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in f" \t\r{_BYTE_ORDER_MARK}":
        position += 1
    return position
