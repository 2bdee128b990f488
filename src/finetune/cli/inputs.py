"""Finds the images and texts that are named on a command line, with their labels where these are known."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from finetune.cli.tables import Row, TableColumns, choose_columns, read_json, read_parquet, read_separated
from finetune.data.label_parsing import label_name, label_names
from finetune.data.readers.channel_files import is_system_file
from finetune.data.readers.file_kinds import FIRST_BYTES, non_table_kind, rejection_reason
from finetune.data.tables.text_lines import open_decompressed
from finetune.data.transforms.image_formats import HEAD_BYTES, IMAGE_ENDINGS, is_image
from finetune.errors import UserError

Content = Path | tuple[str, ...]
"""The file of an image, or the texts of a record."""

STDIN = "-"
_CSV, _TSV, _JSON, _PARQUET = "csv", "tsv", "json", "parquet"
TABLES: Mapping[str, str] = {
    ".csv": _CSV,
    ".tsv": _TSV,
    ".tab": _TSV,
    ".jsonl": _JSON,
    ".ndjson": _JSON,
    ".json": _JSON,
    ".parquet": _PARQUET,
    ".pq": _PARQUET,
}
"""Kinds of tables by the endings of their files, which `.gz` may follow except for Parquet."""
_TEXT_ENDINGS = frozenset({".txt", ".text"})


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """The inputs that a model accepts, and the labels that it knows.

    Attributes:
        labels: the classes.
        are_texts: whether inputs are texts; otherwise they are images.
        texts_per_record: number of texts of a record.
        multi_label: whether an input may have several labels, or none.
    """

    labels: Sequence[str]
    are_texts: bool
    texts_per_record: int
    multi_label: bool


@dataclass(frozen=True, slots=True)
class Item:
    """An input.

    Attributes:
        key: name of the input in the results: a path, or `file:line`.
        content: the file of an image, or the texts of a record.
        labels: its labels, or `None` if they are not known.
    """

    key: str
    content: Content
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """An input that cannot be read, and the reason."""

    key: str
    reason: str


def find_items(inputs: Sequence[str], model: ModelInputs, columns: TableColumns) -> Iterator[Item | Fault]:
    """Yield the images or texts of files, folders and, for `-`, of standard input, without reading images."""
    for name in inputs:
        if name == STDIN:
            yield from _lines_of("stdin", Path(), sys.stdin.buffer, model, columns)
            continue
        path = Path(name)
        try:
            if path.is_dir():
                yield from _folder(path, model, columns)
            elif path.exists():
                yield from _file(path, model, columns)
            else:
                yield Fault(name, "no such file or folder")
        except OSError as error:
            yield Fault(name, error.strerror or str(error))


def _folder(folder: Path, model: ModelInputs, columns: TableColumns) -> Iterator[Item | Fault]:
    paths = sorted(path for path in folder.rglob("*") if not _is_hidden(path.relative_to(folder)) and path.is_file())
    if model.are_texts:
        tables = [path for path in paths if _ending(path) in (*TABLES, *_TEXT_ENDINGS)]
        if not tables:
            yield Fault(str(folder), f"contains no texts: no file ends in {', '.join((*TABLES, '.txt'))}")
        for path in tables:
            yield from _file(path, model, columns)
        return
    images = [path for path in paths if path.suffix.lower() in IMAGE_ENDINGS or _starts_as_image(path)]
    if not images:
        yield Fault(str(folder), "contains no images")
    names = {path.relative_to(folder).parts[0] for path in images if path.parent != folder}
    has_class_folders = any(label_name(name) in model.labels for name in names)
    for path in images:
        label = label_name(path.relative_to(folder).parts[0]) if has_class_folders and path.parent != folder else None
        yield Item(str(path), path, None if label is None else (label,))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or is_system_file(part) for part in path.parts)


def _starts_as_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_image(file.read(HEAD_BYTES))
    except OSError:
        return False


def _ending(path: Path) -> str:
    """Return the ending of a file's name in lower case, of a compressed file the one before `.gz`."""
    name = path.name.lower()
    inner = Path(name.removesuffix(".gz")).suffix
    return Path(name).suffix if TABLES.get(inner) == _PARQUET else inner


def _file(path: Path, model: ModelInputs, columns: TableColumns) -> Iterator[Item | Fault]:
    kind = TABLES.get(_ending(path))
    if kind is None and not model.are_texts:
        yield Item(str(path), path)
        return
    try:
        if kind == _PARQUET:
            texts = model.texts_per_record if model.are_texts else 0
            yield from _items(str(path), path.parent, read_parquet(path, columns, texts=texts), kind, (model, columns))
            return
        with open_decompressed(path) as file:
            if (reason := _why_no_text(file.read(FIRST_BYTES), is_table=kind is not None)) is not None:
                yield Fault(str(path), reason)
                return
            file.seek(0)
            if kind is None:
                yield from _texts_or_paths(str(path), path.parent, file, model)
            else:
                yield from _table(str(path), path.parent, file, kind, (model, columns))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Fault(str(path), f"is damaged or truncated gzip: {error}")
    except UserError as error:
        yield Fault(str(path), str(error))


def _why_no_text(head: bytes, *, is_table: bool) -> str | None:
    """Return why a file with these first bytes is no table or text, or `None` if it may be; lines may contain HTML."""
    is_binary = b"\0" in head
    kind = non_table_kind(head) if is_table or is_binary else None
    if kind is not None:
        return rejection_reason(kind)
    return "is not a text file" if is_binary else None


def _lines_of(
    name: str, folder: Path, lines: Iterable[bytes], model: ModelInputs, columns: TableColumns
) -> Iterator[Item | Fault]:
    """Yield the records of JSON Lines, or of plain lines."""
    remaining = iter(lines)
    first = next((line for line in remaining if line.strip()), b"")
    if first.lstrip().startswith((b"{", b"[{")):
        yield from _table(name, folder, chain([first], remaining), _JSON, (model, columns))
    else:
        yield from _texts_or_paths(name, folder, chain([first], remaining), model)


def _texts_or_paths(name: str, folder: Path, lines: Iterable[bytes], model: ModelInputs) -> Iterator[Item | Fault]:
    """Yield a text, tab-separated texts of a record, or the path of an image per line."""
    for number, line in enumerate(lines, 1):
        key = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig").strip("\r\n")
        except UnicodeDecodeError:
            yield Fault(key, "is not text in UTF-8")
            continue
        if not text.strip():
            continue
        if model.are_texts:
            yield Item(key, tuple(text.split("\t")) if model.texts_per_record > 1 else (text,))
        else:
            yield Item(str(folder / text), folder / text)


def _table(
    name: str, folder: Path, lines: Iterable[bytes], kind: str, expected: tuple[ModelInputs, TableColumns]
) -> Iterator[Item | Fault]:
    rows = read_json(lines) if kind == _JSON else read_separated(lines, expected[1], tabs=kind == _TSV)
    yield from _items(name, folder, rows, kind, expected)


def _items(
    name: str, folder: Path, rows: Iterable[Row], kind: str, expected: tuple[ModelInputs, TableColumns]
) -> Iterator[Item | Fault]:
    model, columns = expected
    for row in rows:
        key = f"{name}:{row.line}"
        if row.fault is not None:
            yield Fault(key, row.fault)
            continue
        try:
            yield _row_item(key, folder, row, model, columns)
        except UserError as error:
            yield Fault(key if kind == _JSON else name, str(error))
            if kind != _JSON:  # all rows have the same columns
                return
        except ValueError as error:
            yield Fault(key, str(error))


def _row_item(key: str, folder: Path, row: Row, model: ModelInputs, columns: TableColumns) -> Item:
    count = model.texts_per_record if model.are_texts else 1
    chosen = choose_columns(tuple(row.cells), columns, texts=count if model.are_texts else 0)
    cells = [row.cells[name] for name in chosen.contents]
    if not all(isinstance(cell, str) for cell in cells):
        raise ValueError(f"{', '.join(chosen.contents)} must contain text")
    texts = tuple(str(cell) for cell in cells)
    label = None if chosen.label is None else _labels(row.cells[chosen.label], model)
    if model.are_texts:
        return Item(key, texts, label)
    if not texts[0].strip():
        raise ValueError(f"{chosen.contents[0]} is empty")
    return Item(str(folder / texts[0]), folder / texts[0], label)


def _labels(value: object, model: ModelInputs) -> tuple[str, ...] | None:
    """Return the labels in a cell, or `None` if it contains none; predictions do not depend on them."""
    try:
        return label_names(value, multi_label=model.multi_label, class_names=model.labels)
    except ValueError:
        return None
