"""Recognizes record files by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.content_types import StreamFormat
from finetune.data.readers.channel_files import ending_of

_RECORD_NAME = re.compile(r"\.(rec|recordio|pbr|tfrecords?|tar|tgz)(?:-\d+-of-\d+)?(?:\.gz)?$", re.IGNORECASE)
_FORMATS: Mapping[str, StreamFormat] = {
    "rec": "recordio",
    "recordio": "recordio",
    "pbr": "protobuf",
    "tfrecord": "tfrecord",
    "tfrecords": "tfrecord",
    "tar": "tar",
    "tgz": "tar",
}
RECORD_ENDINGS = tuple(f".{ending}" for ending in _FORMATS)
"""Endings of record files, optionally followed by `-00000-of-00010`, `.gz` or both."""

_GENERIC_ENDINGS = frozenset({"", ".gz", ".bin", ".dat", ".data", ".protobuf", ".pb"})


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file that contains records.

    Attributes:
        key: path relative to the channel's folder.
        format: format of the records.
    """

    key: str
    format: StreamFormat


def find_record_files(keys: Sequence[str], default_format: StreamFormat | None) -> list[RecordFile]:
    """Return the files with record endings and, if the content type sets the format, files without a specific ending.

    Args:
        keys: file names.
        default_format: format from the content type, which also distinguishes protocol buffers from other RecordIO.
    """
    files = []
    for key in keys:
        match = _RECORD_NAME.search(key)
        record_format = None
        if match:
            record_format = _FORMATS[match.group(1).lower()]
        elif _has_generic_ending(key):
            record_format = default_format
        if record_format == "recordio" and default_format == "protobuf":
            record_format = default_format
        if record_format is not None:
            files.append(RecordFile(key, record_format))
    return files


def _has_generic_ending(key: str) -> bool:
    return ending_of(key) in _GENERIC_ENDINGS and not key.rpartition("/")[2].startswith("_")
