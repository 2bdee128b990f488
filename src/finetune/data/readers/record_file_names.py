"""Which files of a channel hold records, by their names?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.content_types import StreamForm
from finetune.data.readers.channel_files import ending_of

_NAME = re.compile(r"\.(rec|recordio|pbr|tfrecords?|tar|tgz)(?:-\d+-of-\d+)?(?:\.gz)?$", re.IGNORECASE)
_FORMS: Mapping[str, StreamForm] = {
    "rec": "recordio",
    "recordio": "recordio",
    "pbr": "protobuf",
    "tfrecord": "tfrecord",
    "tfrecords": "tfrecord",
    "tar": "tar",
    "tgz": "tar",
}
RECORD_ENDINGS = tuple(f".{ending}" for ending in _FORMS)
"""Of the files that are read, perhaps followed by `-00000-of-00010`, `.gz` or both."""

_VAGUE_ENDINGS = frozenset({"", ".gz", ".bin", ".dat", ".data", ".protobuf", ".pb"})


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file that holds records.

    Attributes:
        key: relative to the channel's folder.
        form: of its content.
    """

    key: str
    form: StreamForm


def record_files(keys: Sequence[str], default: StreamForm | None) -> list[RecordFile]:
    """The files that hold records, by their names; where a content type gives the form, also those without an ending.

    Args:
        keys: names of files.
        default: form by the channel's content type, which also tells protocol buffers from other RecordIO.
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
