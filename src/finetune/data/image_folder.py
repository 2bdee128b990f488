"""Which pictures lie in a folder per class?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from finetune.data.channel_files import Listing, count_endings, ending_of, some_of
from finetune.data.label_names import label_name
from finetune.data.parts import check_class_folders
from finetune.data.record import Record
from finetune.errors import DataError
from finetune.spec.job_spec import Task

_log = logging.getLogger(__name__)

_TOLD = 3

PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class ImageFolderReader:
    """Labelled pictures below one folder; a `Reader`."""

    task: Task = "image-classification"
    left_out: tuple[tuple[str, str], ...] = ()

    def __init__(self, channel: str, root: Path, pictures: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """Take each picture's path relative to `root`, and its classes."""
        self.channel = channel
        self._root = root
        self._pictures = tuple(pictures)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    def key(self, index: int) -> str:
        """Path of picture `index` relative to the channel."""
        return self._pictures[index][0]

    def labels(self, index: int) -> tuple[str, ...]:
        """Classes of picture `index`."""
        return self._pictures[index][1]

    def clue(self, index: int) -> int:
        """Bytes of the file of picture `index`; -1 where that cannot be told."""
        try:
            return (self._root / self._pictures[index][0]).stat().st_size
        except OSError:
            return -1

    def read(self, index: int) -> Record:
        """Picture `index` as the bytes of its file.

        Raises:
            DataError: the file cannot be read.
        """
        key, labels = self._pictures[index]
        try:
            return Record(key, (self._root / key).read_bytes(), labels)
        except OSError as error:
            raise DataError(f"channel {self.channel!r}: {key} cannot be read: {error.strerror}") from error


def read_image_folder(listing: Listing) -> ImageFolderReader:
    """Take the name of the first folder on a picture's path as its class; folders may be nested below it.

    An empty class folder is passed over with a warning, since object stores keep such folders only by accident. One
    that holds files but no picture is an error: a class that somebody filled must not vanish.

    Raises:
        DataError: a picture lies outside every class folder; a class folder holds other files only; no picture at all;
            the folders are parts of a data set, with the class folders in them.
    """
    channel = listing.channel
    pictures = [key for key in listing.keys if ending_of(key) in PICTURE_ENDINGS]
    others = [key for key in listing.keys if ending_of(key) not in PICTURE_ENDINGS]
    _check_layout(listing, pictures)
    check_class_folders(listing.channel, pictures)
    _check_classes(listing, pictures, others)
    if others:
        _log.info("channel %r: passed over what is no picture: %s", channel, count_endings(others))
    classes = {folder: (label_name(folder) or folder,) for folder in listing.folders}
    return ImageFolderReader(channel, listing.root, [(key, classes[key.partition("/")[0]]) for key in pictures])


def _check_layout(listing: Listing, pictures: Sequence[str]) -> None:
    loose = [key for key in pictures if "/" not in key]
    if loose:
        raise DataError(
            f"channel {listing.channel!r}: {len(loose)} pictures lie outside of class folders ({some_of(loose)}), so "
            f"their class is not known; expected is {listing.channel}/<class>/<picture>, a folder per class, or a "
            f"channel {listing.channel + '_lst'!r} whose .lst files name the classes"
        )


def _check_classes(listing: Listing, pictures: Sequence[str], others: Sequence[str]) -> None:
    filled = {key.partition("/")[0] for key in pictures}
    if not filled:
        raise DataError(
            f"channel {listing.channel!r}: no pictures in {listing.root} ({count_endings(others) or 'no files'}); "
            f"expected is a folder per class with files ending in {', '.join(sorted(PICTURE_ENDINGS))}"
        )
    empty = []
    for folder in listing.folders:
        if folder in filled:
            continue
        inside = [key for key in others if key.startswith(f"{folder}/")]
        if inside:
            raise DataError(
                f"channel {listing.channel!r}: class folder {folder!r} holds no picture that can be read "
                f"({count_endings(inside)}); convert its files to one of {', '.join(sorted(PICTURE_ENDINGS))}, "
                "or remove the folder"
            )
        empty.append(folder)
    for folder in empty[:_TOLD]:
        _log.warning("channel %r: class folder %r is empty and is left out", listing.channel, folder)
    if len(empty) > _TOLD:
        _log.warning("channel %r: so are %d more class folders", listing.channel, len(empty) - _TOLD)
