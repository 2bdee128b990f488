"""Detects the format of a channel and opens the matching reader."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.config.content_types import IMAGE_FORMATS, RECORD_TYPES
from finetune.config.hyperparameters import DataSpec, TaskName
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.readers.augmented_manifest import manifests_of, read_augmented_manifest
from finetune.data.readers.channel_files import Listing, count_endings, ending_of, list_files, some_of
from finetune.data.readers.dataset_root import check_single_split
from finetune.data.readers.image_folder import find_images, read_image_folder
from finetune.data.readers.image_list import read_image_list
from finetune.data.readers.record_file_names import RECORD_ENDINGS, RecordFile, find_record_files
from finetune.data.readers.record_files import IMAGES, TEXTS, read_record_files, task_of_records
from finetune.data.record import Reader
from finetune.data.tables.columns import SharedColumns
from finetune.data.tables.delimited import LABEL_PREFIX
from finetune.data.tables.reader import TABLE_ENDINGS, read_text_tables, table_formats
from finetune.data.transforms.image_formats import COMMON_ENDINGS, IMAGE_ENDINGS
from finetune.errors import DataError, UserError

_log = logging.getLogger(__name__)

_EXPECTED: Mapping[TaskName, str] = {
    IMAGES: f"a folder per class with images ({', '.join(COMMON_ENDINGS)})",
    TEXTS: f"tables with a label and a text per row ({', '.join(sorted(TABLE_ENDINGS))}, or other files with a content"
    " type such as text/csv or text/plain)",
}

TABLE_TYPES: Mapping[str, str] = {
    "text/csv": "csv",
    "application/csv": "csv",
    "csv": "csv",
    "text/plain": "csv",
    "text/tab-separated-values": "tsv",
    "text/tsv": "tsv",
    "tsv": "tsv",
    "application/jsonlines": "jsonl",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/json": "jsonl",
    "application/x-parquet": "parquet",
    "application/parquet": "parquet",
    "application/vnd.apache.parquet": "parquet",
    "parquet": "parquet",
}
"""Table format by content type."""


@dataclass(frozen=True, slots=True)
class ChannelSource:
    """Location and settings of a channel.

    Attributes:
        name: channel name, such as `train`.
        folder: folder with the channel's files.
        list_folder: folder of channel `train_lst`, whose `.lst` files name images in `folder`.
        content_type: content type from the request, such as `text/csv`; `None` if unspecified.
        class_ids: whether label lists in records contain class numbers.
        scratch: folder for decompressed files.
        label_first: whether the content type implies tables without a header whose first column is the label.
    """

    name: str
    folder: Path
    list_folder: Path | None = None
    content_type: str | None = None
    class_ids: bool = False
    scratch: Path | None = None
    label_first: bool = False


@dataclass(frozen=True, slots=True)
class _Contents:
    listing: Listing
    images: tuple[str, ...]
    tables: tuple[str, ...]
    records: tuple[RecordFile, ...]
    default_format: str | None


def open_channel(source: ChannelSource, spec: DataSpec, shared: SharedColumns | None = None) -> Reader:
    """Detect the format of a channel and open its reader.

    If the request sets no task, it is inferred from the content type, or else from the files.

    Args:
        source: location of the channel.
        spec: data hyperparameters.
        shared: table columns of other channels.

    Raises:
        DataError: if the channel is missing or empty, its files cannot be used, or they are dataset splits.
        UserError: if the channel contains both images and tables and no task is set, or the files do not fit the task.
    """
    listing = list_files(source.name, source.folder)
    if not listing.keys:
        raise DataError(_explain_empty(listing, source.folder, spec.task))
    if source.list_folder is not None:
        if spec.task == TEXTS:
            raise UserError(f"task={TEXTS}, but channel '{source.name}_lst' lists images; remove task or the channel")
        return read_image_list(
            listing,
            source.list_folder,
            multi_label=spec.multi_label,
            max_bad_records=spec.max_bad_records,
            class_names=spec.class_names,
        )
    if manifests_of(listing):
        return read_augmented_manifest(listing, spec, class_ids=source.class_ids)
    contents = _inspect(source, listing)
    if _holds_records(contents, source):
        check_single_split(source.name, [file.key for file in contents.records])
        options = DecodeOptions(spec.task or IMAGES, spec, source.class_ids)
        if spec.task is None:
            options = replace(options, task=task_of_records(listing, contents.records[0], options))
        return read_record_files(listing, contents.records, options, source.scratch)
    task = spec.task or _task_of_content_type(source.content_type) or _task_of_contents(contents, source)
    _check_task(contents, task, source)
    if task == TEXTS:
        check_single_split(source.name, contents.tables)
        if source.label_first and spec.header == "auto":
            spec = spec.model_copy(update={"header": "false"})
        return read_text_tables(listing, spec, contents.default_format, shared)
    if spec.multi_label:
        raise UserError(
            f"multi_label=true, but channel {source.name!r} has a folder per class, so each image has one class;"
            f" list the classes in a channel '{source.name}_lst', or remove multi_label"
        )
    return read_image_folder(listing, spec.class_names, contents.images)


def _inspect(source: ChannelSource, listing: Listing) -> _Contents:
    default_format = TABLE_TYPES.get(_media_type(source.content_type))
    others = (key for key in listing.keys if ending_of(key) not in IMAGE_ENDINGS)
    formats = table_formats(others, default_format)
    if default_format is None and not any(formats.values()) and _holds_labelled_lines(listing, formats):
        default_format = "csv"
        formats = table_formats(formats, default_format)
    tables = tuple(key for key, table_format in formats.items() if table_format is not None)
    record_format = RECORD_TYPES.get(_media_type(source.content_type))
    records = tuple(find_record_files(listing.keys, record_format))
    other_keys = {*tables, *(file.key for file in records)}
    images = tuple(find_images(listing, [key for key in listing.keys if key not in other_keys]))
    return _Contents(listing, images, tables, records, default_format)


def _holds_labelled_lines(listing: Listing, keys: Iterable[str]) -> bool:
    """Return whether the first file without a known ending has lines of BlazingText, whose files have any ending."""
    first = next((key for key, kind in table_formats(keys, "csv").items() if kind is not None), None)
    if first is None:
        return False
    with suppress(OSError), (listing.root / first).open("rb") as file:
        return file.read(len(LABEL_PREFIX)) == LABEL_PREFIX.encode()
    return False


def _holds_records(contents: _Contents, source: ChannelSource) -> bool:
    """Return whether the channel consists of record files, by its content type or because it has no other files."""
    media_type, records = _media_type(source.content_type), contents.records
    if media_type in RECORD_TYPES and not records:
        raise DataError(
            f"channel {source.name!r} has content type {media_type}, but {source.folder} contains no record files"
            f" ({count_endings(contents.listing.keys)}); expected names ending in {', '.join(RECORD_ENDINGS)}"
        )
    if media_type in RECORD_TYPES or not records:
        return bool(records)
    others = contents.images or contents.tables
    if others and _task_of_content_type(source.content_type) is None:
        raise UserError(
            f"channel {source.name!r} contains record files ({some_of([file.key for file in records], 1)}) and others"
            f" ({some_of(others, 1)}); set the content type of the files to read, such as application/x-recordio,"
            " application/x-image or text/csv"
        )
    return not others


def _media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _task_of_content_type(content_type: str | None) -> TaskName | None:
    media_type = _media_type(content_type)
    if media_type in TABLE_TYPES:
        return TEXTS
    if media_type in IMAGE_FORMATS or media_type.startswith("image/"):
        return IMAGES
    return None


def _task_of_contents(contents: _Contents, source: ChannelSource) -> TaskName:
    if contents.images and contents.tables:
        _check_labels_in_table(contents, source)
        raise UserError(
            f"channel {source.name!r} contains {len(contents.images)} images ({some_of(contents.images, 1)}) and "
            f"{len(contents.tables)} tables ({some_of(contents.tables, 1)}); set task={IMAGES} or task={TEXTS}"
        )
    if contents.images:
        return IMAGES
    if contents.tables:
        return TEXTS
    raise DataError(
        f"channel {source.name!r}: {source.folder} contains neither images nor tables "
        f"({count_endings(contents.listing.keys)}); {_expected_contents(None)}"
    )


def _check_labels_in_table(contents: _Contents, source: ChannelSource) -> None:
    """Refuse images without class folders next to a table that appears to contain their classes."""
    folders = {key.partition("/")[0] if "/" in key else "" for key in contents.images}
    if len(folders) == 1:
        where = f"in a single folder {folders.pop()!r}" if "" not in folders else "without class folders"
        raise DataError(
            f"channel {source.name!r} contains {len(contents.images)} images {where} and table"
            f" {some_of(contents.tables, 1)}, but image classes are not read from tables; use a folder per class, a"
            f" .lst file in a channel '{source.name}_lst', or an augmented manifest"
        )


def _explain_empty(listing: Listing, folder: Path, task: TaskName | None) -> str:
    if listing.skipped_links:
        return (
            f"channel {listing.channel!r} contains no files, only {len(listing.skipped_links)} symbolic links that are"
            f" broken, circular or point outside the channel: {some_of(listing.skipped_links)}; copy their targets into"
            " the channel"
        )
    empty = f", only empty folders ({some_of(map(repr, listing.folders))})" if listing.folders else ""
    return f"channel {listing.channel!r} is empty: no files in {folder}{empty}; {_expected_contents(task)}"


def _check_task(contents: _Contents, task: TaskName, source: ChannelSource) -> None:
    images, tables = contents.images, contents.tables
    matching, others = (images, tables) if task == IMAGES else (tables, images)
    if matching:
        return
    if others:
        kinds = ("images", "tables") if task == IMAGES else ("tables", "images")
        raise UserError(
            f"task={task}, but channel {source.name!r} contains no {kinds[0]}, only {kinds[1]} ({some_of(others)});"
            " change the task, the channel or its content type"
        )
    raise DataError(
        f"channel {source.name!r}: {source.folder} contains no supported files "
        f"({count_endings(contents.listing.keys)}); {_expected_contents(task)}"
    )


def _expected_contents(task: TaskName | None) -> str:
    kinds = _EXPECTED.values() if task is None else (_EXPECTED[task],)
    return "expected " + ", or ".join(kinds)
