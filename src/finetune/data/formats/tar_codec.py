"""Splits tar shards into samples and decodes the samples.

As in WebDataset, consecutive files with the same path up to the first dot of the file name form one sample, and the
part after that dot names the field: `0001.jpg` and `0001.cls`. Images without other fields are separate samples even
if their names contain dots: `cat.0.jpg` and `cat.1.jpg`. The class of an image without a label is its folder name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune.data.formats.named_fields import (
    IMAGE_FIELDS,
    LABEL_FIELDS,
    TEXT_FIELDS,
    DecodedRecord,
    DecodeOptions,
    RawRecord,
    select_fields,
)
from finetune.data.framing.tar_members import read_tar
from finetune.data.framing.window import Window
from finetune.data.json_text import parse_json
from finetune.data.readers.channel_files import ending_of, is_system_file, some_of
from finetune.data.transforms.image_formats import HEAD_BYTES, IMAGE_ENDINGS, is_image
from finetune.errors import DataError

_MAX_FILES = 256
_MAX_BYTES = 1 << 28
"""Maximum size of a sample with several files. Beyond either limit, it is a whole archive of names with dots."""
_DEFAULT_FIELDS = frozenset({*IMAGE_FIELDS, *LABEL_FIELDS, *TEXT_FIELDS, "json"})
_CONVENTION = (
    "as in WebDataset, file names are split at the first dot: 'photo.1.png' is field '1.png' of sample 'photo'; rename"
    " the files so that the only dot precedes the field, such as 'photo-1.png'"
)


@dataclass(slots=True)
class _Group:
    """Files collected for the current sample.

    Attributes:
        stem: common path up to the first dot of the file name.
        parts: alternating names and contents.
        size: total size of the contents in bytes.
        is_numbered_image: whether the sample is one image with an unusual field name, such as `cat.0.jpg`.
        is_split: whether images with the same stem are separate samples.
        archive: index of the archive with the first file.
    """

    stem: str = ""
    parts: list[memoryview] = field(default_factory=list)
    size: int = 0
    is_numbered_image: bool = False
    is_split: bool = False
    archive: int = 0


@dataclass(slots=True)
class _ClassFolders:
    """Parent folders of the class folders, per archive.

    Attributes:
        archive: index of the current archive.
        parents: parent folder of the class folders of unlabeled images, by archive index.
    """

    archive: int = 0
    parents: dict[int, str] = field(default_factory=dict)

    def end_archive(self) -> None:
        """Advance to the next archive."""
        self.archive += 1


class TarCodec:
    """Codec for any number of tar shards in a stream. A sample alternates names and contents."""

    def __init__(self, options: DecodeOptions, where: str = "the stream") -> None:
        """Set the fields to extract, and the channel and file for messages."""
        self._options = options
        self._where = where
        spec = options.spec
        self._has_field_names = any((spec.image_column, spec.text_column, spec.label_column))

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield the names and contents of the files of each sample.

        Raises:
            DataError: if a sample is too large, or the class folders have different parent folders.
        """
        for record, _ in self.split_records_with_ends(window):
            yield record

    def split_records_with_ends(self, window: Window) -> Iterator[tuple[RawRecord, int]]:
        """Yield samples, each with the stream offset after its last file."""
        group, end, folders = _Group(), 0, _ClassFolders()
        for path, content in read_tar(window, folders.end_archive):
            if any(is_system_file(name) for name in path.split("/") if name not in (".", "..")):
                continue
            name = path.rpartition("/")[2]
            stem = path[: len(path) - len(name)] + name.partition(".")[0]
            has_image = _is_image_file(name, content)
            is_numbered = has_image and not self._has_field_names and self._has_unusual_field(name)
            is_split = (
                group.stem == stem and has_image and (group.is_split or (group.is_numbered_image and is_numbered))
            )
            if group.parts and (group.stem != stem or is_split):
                yield self._check_sample(group, folders), end
                group = _Group(is_split=is_split)
            group.is_numbered_image = is_numbered and not group.parts
            group.archive = group.archive if group.parts else folders.archive
            group.stem, end = stem, window.offset
            group.parts += [memoryview(path.encode("utf-8", "surrogateescape")), content]
            group.size += len(content)
            self._check_size(group, path)
        if group.parts:
            yield self._check_sample(group, folders), end

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Decode the fields by file ending; a `.json` object adds fields by its keys.

        Raises:
            ValueError: if the sample is malformed; the message follows the record's name.
        """
        fields: dict[str, object] = {}
        path = ""
        for name, content in zip(record[::2], record[1::2], strict=True):
            path = bytes(name).decode("utf-8", "replace")
            field_name = path.rpartition("/")[2].partition(".")[2].lower()
            fields[field_name] = content
            if field_name == "json":
                value = parse_json(bytes(content))
                fields |= value if isinstance(value, dict) else {}
        folder = _folders(path)[-1:]
        is_labelled = any(name in fields for name in LABEL_FIELDS) or self._options.spec.label_column is not None
        if len(record) == 2 and not self._has_field_names and _is_image_file(path, record[1]):
            fields = {"image": record[1]}
            if not folder:
                raise ValueError(
                    f"is image {path!r} without a label: it is not in a class folder, and there is no label file"
                    f" {path.rpartition('.')[0] + '.cls'!r}; {_CONVENTION}"
                )
        images = [name for name in fields if f".{name}" in IMAGE_ENDINGS]
        if folder and not is_labelled and self._options.spec.image_column is None and len(images) > 1:
            raise ValueError(
                f"has {len(images)} images with the same name ({some_of(map(repr, images))}) and no label; give them"
                " different names, or set image_column to one of these fields"
            )
        classes = tuple(folder) if folder and not is_labelled else None
        try:
            return select_fields(fields, fields, self._options, classes)
        except ValueError as error:
            if self._has_field_names or not any("." in name for name in fields):
                raise
            raise ValueError(f"{error}; {_CONVENTION}") from error

    def _has_unusual_field(self, name: str) -> bool:
        """Return whether a name has dots before its ending and no usual field name after the first dot."""
        field_name = name.partition(".")[2].lower()
        return "." in field_name and field_name not in _DEFAULT_FIELDS

    def _check_size(self, group: _Group, path: str) -> None:
        count = len(group.parts) // 2
        if count > 1 and (count > _MAX_FILES or group.size > _MAX_BYTES):
            raise DataError(
                f"{self._where}: a sample has more than {_MAX_FILES} files or {_MAX_BYTES >> 20} MiB with the same name"
                f" up to the first dot, such as {path!r}; {_CONVENTION}"
            )

    def _check_sample(self, group: _Group, class_folders: _ClassFolders) -> RawRecord:
        """Return the sample after checking that unlabeled images share the parent of their class folders.

        Raises:
            DataError: if the parent folders differ.
        """
        paths = [bytes(name).decode("utf-8", "replace") for name in group.parts[::2]]
        fields = {path.rpartition("/")[2].partition(".")[2].lower() for path in paths}
        is_labelled = self._options.spec.label_column is not None or not fields.isdisjoint({*LABEL_FIELDS, "json"})
        folders = _folders(paths[-1])
        if folders and not is_labelled and self._options.images:
            parent = "/".join(folders[:-1])
            first = class_folders.parents.setdefault(group.archive, parent)
            if first != parent:
                raise DataError(
                    f"{self._where}: images without labels are in folders below {first or '.'!r} and {parent or '.'!r},"
                    f" such as {paths[-1]!r}, so the class folders are ambiguous; pack one split of the dataset with"
                    " its class folders in the same parent folder, or add a label file to each image"
                )
        return tuple(group.parts)


def _folders(path: str) -> list[str]:
    return [name for name in path.split("/")[:-1] if name not in ("", ".")]


def _is_image_file(name: str, content: memoryview) -> bool:
    return ending_of(name) in IMAGE_ENDINGS or is_image(bytes(content[:HEAD_BYTES]))
