"""Content types of record streams, and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

StreamFormat = Literal["recordio", "images", "protobuf", "tfrecord", "tar", "jsonl", "csv", "tsv", "parquet"]

RECORD_TYPES: Mapping[str, StreamFormat] = {
    "application/x-recordio": "recordio",
    "application/recordio": "recordio",
    "application/x-recordio-protobuf": "protobuf",
    "application/x-tfrecord": "tfrecord",
    "application/tfrecord": "tfrecord",
    "application/x-tar": "tar",
    "application/tar": "tar",
    "application/x-webdataset": "tar",
}
"""Formats that contain images, or texts if `task` is text-classification."""

TEXT_FORMATS: Mapping[str, StreamFormat] = {
    **dict.fromkeys(("text/csv", "application/csv", "csv", "text/plain"), "csv"),
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
"""Formats that contain texts."""

IMAGE_FORMATS: Mapping[str, StreamFormat] = dict.fromkeys(
    (
        *("application/x-image", "image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp"),
        *("application/jpeg", "application/png", "image/*"),
    ),
    "images",
)


def stream_format_of(content_type: str | None) -> StreamFormat | None:
    """The stream format of a content type without parameters; `None` if it implies none."""
    formats = {**RECORD_TYPES, **TEXT_FORMATS, **IMAGE_FORMATS}
    return formats.get(content_type) if content_type is not None else None


def parse_label_size(content_type: str | None) -> int | None:
    """The number of label columns given by the content type parameter `label_size`; `None` without it.

    The platform's built-in algorithms read CSV without a header and with the label in the first column; `label_size=1`
    declares this format.
    """
    for parameter in (content_type or "").lower().replace(" ", "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name == "label_size" and value.isdecimal():
            return int(value)
    return None


def has_class_ids(content_type: str | None) -> bool:
    """Whether the content type declares that label lists contain class indices (`label-format=class-id`)."""
    parameters = (content_type or "").lower().replace(" ", "").split(";")[1:]
    return "label-format=class-id" in parameters
