"""Reads images and classes listed in `.lst` files.

The format is that of SageMaker's built-in image classification: one line per image with an index, one or several labels
and the path relative to the image channel, separated by tabs. A single label is a class name or number. Several labels
are a 1 or 0 per class, so the classes are named `0`, `1`, and so on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.data.label_parsing import label_name, label_names
from finetune.data.readers.channel_files import Listing, count_endings, ending_of, list_files, some_of
from finetune.data.readers.image_folder import ImageFolderReader
from finetune.data.readers.missing_files import MissingFiles
from finetune.data.tables.text_lines import text_lines
from finetune.data.transforms.image_formats import IMAGE_ENDINGS
from finetune.errors import DataError, UserError

_log = logging.getLogger(__name__)

LIST_ENDING = ".lst"

_LINE_FORMAT = "index, label, relative path, separated by tabs"


@dataclass(frozen=True, slots=True)
class _Entry:
    where: str
    labels: tuple[str, ...]
    path: str


def read_image_list(
    listing: Listing,
    list_folder: Path,
    *,
    multi_label: bool,
    max_bad_records: int = 0,
    class_names: Collection[str] = (),
) -> ImageFolderReader:
    """Read all `.lst` files of a channel such as `train_lst`, in name order.

    Args:
        listing: files of the image channel. Only these can be referenced, so no line can access files outside it.
        list_folder: folder of the channel with the lists.
        multi_label: whether an image may have any number of classes.
        max_bad_records: maximum number of missing images.
        class_names: class names declared in the request.

    Raises:
        DataError: if there is no `.lst` file, a line is malformed, an image is outside the channel or listed twice, or
            too many images, or all images of a class, are missing.
        UserError: if there are several label columns without `multi_label`.
    """
    channel = f"{listing.channel}_lst"
    lists = list_files(channel, list_folder)
    keys = [key for key in lists.keys if ending_of(key) == LIST_ENDING]
    if not keys:
        raise DataError(
            f"channel {channel!r}: no {LIST_ENDING} file in {list_folder} ({count_endings(lists.keys) or 'no files'}); "
            f"expected a line per image: {_LINE_FORMAT}"
        )
    keys_in_channel = frozenset(listing.keys)
    locations: dict[str, str] = {}
    images = []
    missing = MissingFiles(listing, max_bad_records)
    for key in keys:
        for entry in _read_entries(channel, lists.root, key, multi_label, class_names):
            path = _checked_path(entry, listing)
            if path in locations:
                raise DataError(f"{entry.where}: {path!r} is already listed in {locations[path]}; list each image once")
            locations[path] = entry.where
            if path in keys_in_channel:
                images.append((path, entry.labels))
            else:
                missing.add(entry.where, path, entry.labels)
    if not locations:
        raise DataError(f"channel {channel!r}: its {LIST_ENDING} files are empty; expected {_LINE_FORMAT}")
    left_out = missing.left_out([labels for _, labels in images])
    unlisted = [key for key in listing.keys if key not in locations and ending_of(key) in IMAGE_ENDINGS]
    if unlisted:
        _log.info(
            "channel %r: ignored %d images that channel %r does not list, such as %s",
            listing.channel,
            len(unlisted),
            channel,
            unlisted[0],
        )
    return ImageFolderReader(listing.channel, listing.root, sorted(images), left_out=left_out)


def _read_entries(
    channel: str, root: Path, key: str, multi_label: bool, class_names: Collection[str]
) -> Iterator[_Entry]:
    columns = None
    for line, text in text_lines(channel, root, key):
        if not text.strip():
            continue
        where = f"channel {channel!r}: {key}, line {line}"
        cells = text.rstrip("\r\n").split("\t")
        columns = columns or len(cells)
        if len(cells) < 3 or len(cells) != columns:
            raise DataError(f"{where} has {len(cells)} columns instead of {max(columns, 3)}; expected {_LINE_FORMAT}")
        if len(cells) > 3 and not multi_label:
            raise UserError(
                f"{where} has {len(cells) - 2} labels; set multi_label=true for a 1 or 0 per class, or use one label"
            )
        try:
            if len(cells) > 3:
                labels = _classes_of_flags(cells[1:-1])
            else:
                labels = label_names(cells[1], multi_label=multi_label, class_names=class_names)
        except ValueError as error:
            raise DataError(f"{where}: {error}; expected {_LINE_FORMAT}") from error
        yield _Entry(where, labels, cells[-1].strip())


def _classes_of_flags(cells: list[str]) -> tuple[str, ...]:
    names = [label_name(cell) for cell in cells]
    for name in names:
        if name not in {"0", "1"}:
            raise ValueError(f"one of several labels is {name!r}; expected 1 or 0 per class")
    return tuple(str(number) for number, name in enumerate(names) if name == "1")


def _checked_path(entry: _Entry, listing: Listing) -> str:
    """Return the path of an entry relative to the channel.

    Raises:
        DataError: if the path points outside the channel.
    """
    path = entry.path.removeprefix("./")
    if path.startswith("/") or ".." in path.split("/"):
        raise DataError(
            f"{entry.where}: the path {some_of([repr(path)])} points outside channel {listing.channel!r}; use a path"
            " relative to the channel"
        )
    return path
