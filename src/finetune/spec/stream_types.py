"""Which content types stand for a stream of records, and what may be said after them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

StreamForm = Literal["recordio", "pictures", "protobuf", "tfrecord", "tar", "jsonl", "csv", "tsv", "parquet"]

RECORD_TYPES: Mapping[str, StreamForm] = {
    "application/x-recordio": "recordio",
    "application/recordio": "recordio",
    "application/x-recordio-protobuf": "protobuf",
    "application/x-tfrecord": "tfrecord",
    "application/tfrecord": "tfrecord",
    "application/x-tar": "tar",
    "application/tar": "tar",
    "application/x-webdataset": "tar",
}
"""Forms that hold pictures, or texts where `task` says so."""

TEXT_FORMS: Mapping[str, StreamForm] = {
    **dict.fromkeys(("text/csv", "application/csv", "csv"), "csv"),
    **dict.fromkeys(("text/tab-separated-values", "text/tsv", "tsv"), "tsv"),
    **dict.fromkeys(
        (
            *("application/jsonlines", "application/x-jsonlines", "application/jsonl"),
            *("application/x-ndjson", "application/json"),
        ),
        "jsonl",
    ),
    **dict.fromkeys(
        ("application/x-parquet", "application/parquet", "application/vnd.apache.parquet", "parquet"), "parquet"
    ),
}
"""Forms that hold texts."""

PICTURE_FORMS: Mapping[str, StreamForm] = dict.fromkeys(
    ("application/x-image", "image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp"), "pictures"
)


def form_of_type(content_type: str | None) -> StreamForm | None:
    """The form that a content type without parameters stands for; `None` where it says nothing."""
    known = {**RECORD_TYPES, **TEXT_FORMS, **PICTURE_FORMS}
    return known.get(content_type) if content_type is not None else None


def holds_class_ids(content_type: str | None) -> bool:
    """Whether a content type says that lists of labels hold class numbers (`label-format=class-id`)."""
    parameters = (content_type or "").lower().replace(" ", "").split(";")[1:]
    return "label-format=class-id" in parameters
