"""Reads images from one folder per class."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune.config.hyperparameters import TaskName
from finetune.data.readers.channel_files import Listing, count_endings, ending_of, some_of
from finetune.data.readers.dataset_root import check_class_folders
from finetune.data.record import Reader, Record
from finetune.data.transforms.image_formats import COMMON_ENDINGS, HEAD_BYTES, IMAGE_ENDINGS, is_image, is_raw_photo
from finetune.errors import DataError
from finetune.runtime.threads import usable_cores

_log = logging.getLogger(__name__)

_MAX_THREADS = 16
_MAX_SHOWN_CLASSES = 4
_LINK = "symbolic link"
_MAX_SHOWN_FOLDERS = 3


class ImageFolderReader:
    """Labeled images below one folder; a `Reader`.

    Attributes:
        left_out: key and reason of each record that cannot be used; at most `max_bad_records`.
        other_files: number of files that are not readable images, by class folder (empty for files outside class
            folders) and ending.
    """

    task: TaskName = "image-classification"

    def __init__(
        self,
        channel: str,
        root: Path,
        images: Sequence[tuple[str, tuple[str, ...]]],
        *,
        left_out: Sequence[tuple[str, str]] = (),
        other_files: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Initialize the reader.

        Args:
            channel: name of the channel.
            root: folder of the channel.
            images: path relative to `root` and classes of each image.
            left_out: key and reason of each record that cannot be used.
            other_files: number of non-image files by class folder and ending.
        """
        self.channel = channel
        self.left_out = tuple(left_out)
        self.other_files = other_files or {}
        self._root = root
        self._images = tuple(images)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def key(self, index: int) -> str:
        """Path of image `index` relative to the channel."""
        return self._images[index][0]

    def labels(self, index: int) -> tuple[str, ...]:
        """Classes of image `index`."""
        return self._images[index][1]

    def clue(self, index: int) -> int:
        """File size of image `index` in bytes; -1 if unknown."""
        try:
            return (self._root / self._images[index][0]).stat().st_size
        except OSError:
            return -1

    def read(self, index: int) -> Record:
        """Return image `index` as the bytes of its file.

        Raises:
            DataError: if the file cannot be read.
        """
        key, labels = self._images[index]
        try:
            return Record(key, (self._root / key).read_bytes(), labels)
        except OSError as error:
            raise DataError(f"channel {self.channel!r}: {key} cannot be read: {error.strerror}") from error


def read_image_folder(
    listing: Listing, class_names: Sequence[str] = (), images: Sequence[str] | None = None
) -> ImageFolderReader:
    """Read labeled images whose class is the first folder on the path; sub-folders are allowed.

    Empty class folders are skipped with a warning, since object stores keep them only by accident. A class folder with
    files but no images is an error, since a class with data must not be dropped silently.

    Args:
        listing: the channel's files.
        class_names: class names declared by the user.
        images: keys of the images, if already known.

    Raises:
        DataError: if an image is outside the class folders, a class folder contains only other files or skipped links,
            there are no images, or the folders are dataset splits that contain the class folders.
    """
    channel = listing.channel
    if images is None:
        images = find_images(listing, listing.keys)
    image_keys = frozenset(images)
    others = [key for key in listing.keys if key not in image_keys]
    _check_layout(listing, images)
    if images:
        check_class_folders(channel, images, class_names)
    _check_classes(listing, images, others)
    other_files = _count_others(others, listing.skipped_links)
    if others:
        _warn_about_others(channel, images, others, other_files)
    labeled = [(key, (key.partition("/")[0],)) for key in images]
    return ImageFolderReader(channel, listing.root, labeled, other_files=other_files)


def other_files_of(reader: Reader) -> Mapping[str, Mapping[str, int]]:
    """Return the number of files that are not readable images, by class folder and ending."""
    counts: Mapping[str, Mapping[str, int]] = getattr(reader, "other_files", {})
    return counts


def find_images(listing: Listing, keys: Sequence[str]) -> list[str]:
    """Return the image files, recognized by ending or, for other endings, by their first bytes.

    Args:
        listing: the channel's files.
        keys: files to check.
    """
    unrecognized = [key for key in keys if ending_of(key) not in IMAGE_ENDINGS and not is_raw_photo(ending_of(key))]
    # Each check is a request if the channel is mounted from S3.
    with ThreadPoolExecutor(min(_MAX_THREADS, 2 * usable_cores())) as threads:
        flags = threads.map(lambda key: _starts_as_image(listing.root / key), unrecognized)
        by_content = {key for key, is_image_file in zip(unrecognized, flags, strict=True) if is_image_file}
    return [key for key in keys if ending_of(key) in IMAGE_ENDINGS or key in by_content]


def _starts_as_image(path: Path) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            return is_image(file.read(HEAD_BYTES) or b"")
    except OSError:
        return False


def _check_layout(listing: Listing, images: Sequence[str]) -> None:
    misplaced = [key for key in images if "/" not in key]
    if misplaced:
        raise DataError(
            f"channel {listing.channel!r}: {len(misplaced)} images are outside class folders"
            f" ({some_of(misplaced)}), so their class is unknown; use a folder per class"
            f" ({listing.channel}/<class>/<image>), or a channel {listing.channel + '_lst'!r} with .lst files"
        )


def _check_classes(listing: Listing, images: Sequence[str], others: Sequence[str]) -> None:
    folders_with_images = {key.partition("/")[0] for key in images}
    if not folders_with_images:
        raise DataError(
            f"channel {listing.channel!r}: no images in {listing.root} ({count_endings(others) or 'no files'}"
            f"{_mention_links(listing.skipped_links)}); expected a folder per class with files ending in"
            f" {', '.join(COMMON_ENDINGS)}"
        )
    _check_links(listing, folders_with_images)
    empty = []
    for folder in listing.folders:
        if folder in folders_with_images:
            continue
        contents = [key for key in others if key.startswith(f"{folder}/")]
        if contents:
            raise DataError(
                f"channel {listing.channel!r}: class folder {folder!r} contains no supported image "
                f"({count_endings(contents)}); convert its files to one of {', '.join(COMMON_ENDINGS)}, "
                "or remove the folder"
            )
        empty.append(folder)
    for folder in empty[:_MAX_SHOWN_FOLDERS]:
        _log.warning("channel %r: skipped class folder %r, which is empty", listing.channel, folder)
    if len(empty) > _MAX_SHOWN_FOLDERS:
        _log.warning(
            "channel %r: skipped %d more empty class folders", listing.channel, len(empty) - _MAX_SHOWN_FOLDERS
        )


def _check_links(listing: Listing, folders_with_images: set[str]) -> None:
    """Refuse skipped symbolic links if a class would be lost."""
    for link in listing.skipped_links:
        folder = link.partition("/")[0]
        is_file = (listing.root / link).is_file() or ending_of(link) in IMAGE_ENDINGS
        if folder not in folders_with_images and ("/" in link or not is_file):
            raise DataError(
                f"channel {listing.channel!r}: class {folder!r} would be lost, since {link!r} is a symbolic link that"
                " is broken, circular or points outside the channel"
                f"{_mention_links([other for other in listing.skipped_links if other != link])}; copy its target into"
                " the channel, or remove the link"
            )


def _mention_links(links: Sequence[str]) -> str:
    if not links:
        return ""
    return f"; {len(links)} symbolic links are broken, circular or point outside the channel: {some_of(links)}"


def _count_others(others: Sequence[str], links: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the skipped files by class folder and ending."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key in others:
        counts[_folder_of(key)][ending_of(key) or "without ending"] += 1
    for key in links:
        counts[_folder_of(key)][_LINK] += 1
    return {folder: dict(sorted(counts[folder].items())) for folder in sorted(counts)}


def _folder_of(key: str) -> str:
    return key.partition("/")[0] if "/" in key else ""


def _warn_about_others(
    channel: str, images: Sequence[str], others: Sequence[str], counts: Mapping[str, Mapping[str, int]]
) -> None:
    image_counts = Counter(_folder_of(key) for key in images)
    other_counts = Counter(_folder_of(key) for key in others)
    folders = sorted(
        (folder for folder in other_counts if folder),
        key=lambda folder: (-other_counts[folder] / image_counts[folder], folder),
    )
    folder_counts = [
        f"{folder!r} {other_counts[folder]} of {other_counts[folder] + image_counts[folder]} files"
        f" ({', '.join(f'{count} {ending}' for ending, count in counts[folder].items() if ending != _LINK)})"
        for folder in folders
    ]
    by_class = f"; by class: {some_of(folder_counts, _MAX_SHOWN_CLASSES)}" if folder_counts else ""
    _log.warning(
        "channel %r: skipped %d files that are not supported images: %s%s",
        channel,
        len(others),
        count_endings(others),
        by_class,
    )
