"""Recognizes record files by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.content_types import StreamFormat
from finetune.data.readers.channel_files import ending_of

_NAME = re.compile(r"\.(rec|recordio|pbr|tfrecords?|tar|tgz)(?:-\d+-of-\d+)?(?:\.gz)?$", re.IGNORECASE)
_FORMS: Mapping[str, StreamFormat] = {
    "rec": "recordio",
    "recordio": "recordio",
    "pbr": "protobuf",
    "tfrecord": "tfrecord",
    "tfrecords": "tfrecord",
    "tar": "tar",
    "tgz": "tar",
}
RECORD_ENDINGS = tuple(f".{ending}" for ending in _FORMS)
"""Endings of record files, optionally followed by `-00000-of-00010`, `.gz` or both."""

_VAGUE_ENDINGS = frozenset({"", ".gz", ".bin", ".dat", ".data", ".protobuf", ".pb"})


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file that contains records.

    Attributes:
        key: path relative to the channel's folder.
        form: format of the records.
    """

    key: str
    format: StreamFormat


def find_record_files(keys: Sequence[str], default: StreamFormat | None) -> list[RecordFile]:
    """Return the files with record endings and, if the content type sets the format, files without a specific ending.

    Args:
        keys: file names.
        default: format from the content type, which also distinguishes protocol buffers from other RecordIO.
    """
    found = []
    for key in keys:
        named = _NAME.search(key)
        form = _FORMS[named.group(1).lower()] if named else default if _is_vague(key) else None
        if form == "recordio" and default == "protobuf":
            form = default
        if form is not None:
            found.append(RecordFile(key, form))
    return found


def _is_vague(key: str) -> bool:
    return ending_of(key) in _VAGUE_ENDINGS and not key.rpartition("/")[2].startswith("_")
