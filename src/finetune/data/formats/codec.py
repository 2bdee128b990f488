"""Selects the codec of a record stream from the channel settings and the first bytes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from finetune.config.content_types import StreamFormat
from finetune.data.formats.image_records import is_encoded_image
from finetune.data.formats.named_fields import DecodedRecord, DecodeOptions, RawRecord
from finetune.data.formats.record_codecs import AttributeCodec, ExampleCodec, ImageRecordCodec, ProtobufCodec
from finetune.data.formats.tar_codec import TarCodec
from finetune.data.formats.text_codecs import DelimitedCodec, JsonLinesCodec
from finetune.data.framing.recordio import MAGIC_BYTES, read_recordio
from finetune.data.framing.tar_members import read_header
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.labels import LabelMap
from finetune.runtime.masked_crc32c import masked_crc32c

_log = logging.getLogger(__name__)

_JSON = re.compile(rb"\{|\[\s*\{")


class Codec(Protocol):
    """Splits a stream into raw records in a single thread and decodes records in any thread."""

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield raw records as views into the stream.

        Raises:
            DamagedStream: if the rest of the stream cannot be split.
            UserError: if the request lacks a required setting.
        """
        ...

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Decode one record; images stay encoded.

        Raises:
            ValueError: if the record is malformed; the message follows the record's name.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamLayout:
    """Settings of a stream from the request.

    Attributes:
        where: channel name, for messages.
        format: stream format according to the content type, `None` if unspecified.
        wrapped: whether each object, or each attribute, is one RecordIO record.
        shared: whether the objects are sharded across hosts, so that this host may receive none in some epochs.
        classes: label map for records with numeric labels; `None` to use labels unchanged.
        warn: callback for warnings about how the stream is interpreted; called again in every epoch.
    """

    where: str
    format: StreamFormat | None
    wrapped: bool = False
    shared: bool = False
    classes: LabelMap | None = None
    warn: Callable[[str], None] = _log.warning


class WrappedCodec:
    """Codec for objects that are each wrapped in one RecordIO record."""

    def __init__(self, inner: Codec, options: DecodeOptions) -> None:
        self._inner = inner
        self._options = options
        self.decode = inner.decode

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield the records of each object in order."""
        for payload in read_recordio(window, self._options.spec.recordio_parts):
            yield from self._inner.split_records(Window([payload]))


class LabelMappingCodec:
    """Codec that maps numeric labels to declared class names, as `AnnouncedReader` does for files."""

    def __init__(self, inner: Codec, classes: LabelMap) -> None:
        self._inner = inner
        self._classes = classes
        self.split_records = inner.split_records

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Decode a record and map its labels to class names; labels without a match are left unchanged."""
        decoded = self._inner.decode(record)
        return DecodedRecord(decoded.content, tuple(self._classes.resolve(label) or label for label in decoded.labels))


def choose_codec(layout: StreamLayout, options: DecodeOptions, window: Window) -> Codec:
    """Choose the codec by attribute names, content type and wrapping, or else by the first bytes (not consumed).

    Raises:
        DamagedStream: if the format is not supported.
    """
    codec = _select_codec(layout, options, window)
    return codec if layout.classes is None else LabelMappingCodec(codec, layout.classes)


def _select_codec(layout: StreamLayout, options: DecodeOptions, window: Window) -> Codec:
    if options.spec.attribute_names:
        return AttributeCodec(options)
    if layout.wrapped and layout.format in (None, "recordio", "images"):
        return AttributeCodec(options)
    stream_format = layout.format if layout.format not in (None, "images") else _detect_format(window)
    if stream_format == "recordio":
        return _recordio_codec(window, options)
    codec = _create_codec(stream_format, layout, options)
    return WrappedCodec(codec, options) if layout.wrapped and stream_format != "protobuf" else codec


def _create_codec(stream_format: StreamFormat, layout: StreamLayout, options: DecodeOptions) -> Codec:
    match stream_format:
        case "protobuf":
            return ProtobufCodec(options)
        case "tfrecord":
            return ExampleCodec(options)
        case "tar":
            return TarCodec(options, layout.where)
        case "jsonl":
            return JsonLinesCodec(options, layout.where, layout.warn)
        case "csv" | "tsv":
            return DelimitedCodec(options, layout.where, layout.warn, tabs=stream_format == "tsv")
        case "images":
            raise DamagedStream(
                "contains images without labels; use an augmented manifest, or pack images and labels as RecordIO,"
                " TFRecord or tar",
                0,
            )
        case _:
            raise DamagedStream(
                "contains Parquet, which cannot be read from a stream; use input mode File or FastFile", 0
            )


def _recordio_codec(window: Window, options: DecodeOptions) -> Codec:
    """Distinguish image records, which have a header before the image, from manifest attributes without one."""
    window.reach(64)
    prefix = window.view[window.position : window.position + 64]
    return AttributeCodec(options) if is_encoded_image(prefix[8:]) or not options.images else ImageRecordCodec(options)


def _detect_format(window: Window) -> StreamFormat:
    window.reach(512)
    prefix = bytes(window.view[window.position : window.position + 512])
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip()
    candidates: tuple[tuple[StreamFormat, bool], ...] = (
        ("recordio", prefix.startswith(MAGIC_BYTES)),
        ("tfrecord", len(prefix) >= 12 and masked_crc32c(prefix[:8]) == int.from_bytes(prefix[8:12], "little")),
        ("tar", _is_tar(prefix)),
        ("jsonl", _JSON.match(text) is not None),
        ("images", is_encoded_image(prefix)),
        ("parquet", prefix.startswith(b"PAR1")),
    )
    return next((form for form, matches in candidates if matches), "csv")


def _is_tar(block: bytes) -> bool:
    try:
        return len(block) == 512 and bool(read_header(block).name)
    except ValueError:
        return False
