"""Selects the codec of a record stream from the channel settings and the first bytes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from finetune.config.content_types import StreamFormat
from finetune.data.formats.image_records import is_picture
from finetune.data.formats.named_fields import DecodedRecord, DecodeOptions
from finetune.data.formats.record_codecs import AttributeCodec, ExampleCodec, ImageRecordCodec, ProtobufCodec
from finetune.data.formats.tar_codec import TarCodec
from finetune.data.formats.text_codecs import DelimitedCodec, JsonLinesCodec
from finetune.data.framing.recordio import MAGIC_BYTES, read_recordio
from finetune.data.framing.tar_members import read_header
from finetune.data.framing.tfrecord import masked_checksum
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.labels import LabelMap

_log = logging.getLogger(__name__)

RawRecord = tuple[memoryview, ...]

_JSON = re.compile(rb"\{|\[\s*\{")
_INSTEAD = "send them as an augmented manifest, in RecordIO, TFRecord or tar"


class Codec(Protocol):
    """Splits a stream into samples in a single thread and decodes samples in any thread."""

    def cut(self, window: Window) -> Iterator[RawRecord]:
        """Yield samples as views into the stream.

        Raises:
            DamagedStream: if the rest of the stream cannot be split.
            UserError: if the request lacks a required setting.
        """
        ...

    def decode(self, sample: RawRecord) -> DecodedRecord:
        """Decode one sample; images stay encoded.

        Raises:
            ValueError: if the sample is malformed; the message follows the record's name.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamLayout:
    """Settings of a stream from the request.

    Attributes:
        where: channel name, for messages.
        form: stream format according to the content type, `None` if unspecified.
        wrapped: whether each object, or each attribute, is one RecordIO record.
        shared: whether the objects are sharded across hosts, so that this host may receive none in some epochs.
        classes: label map for records with numeric labels; `None` to use labels unchanged.
        warn: callback for warnings about how the stream is interpreted; called again in every epoch.
    """

    where: str
    form: StreamFormat | None
    wrapped: bool = False
    shared: bool = False
    classes: LabelMap | None = None
    warn: Callable[[str], None] = _log.warning


class WrappedCodec:
    """Codec for objects that are each wrapped in one RecordIO record."""

    def __init__(self, inner: Codec, wanted: DecodeOptions) -> None:
        self._inner = inner
        self._wanted = wanted
        self.decode = inner.decode

    def cut(self, window: Window) -> Iterator[RawRecord]:
        """Yield the samples of each object in order."""
        for payload in read_recordio(window, self._wanted.spec.recordio_parts):
            yield from self._inner.cut(Window([payload]))


class NumberedCodec:
    """Codec that maps numeric labels to declared class names, as `AnnouncedReader` does for files."""

    def __init__(self, inner: Codec, classes: LabelMap) -> None:
        self._inner = inner
        self._classes = classes
        self.cut = inner.cut

    def decode(self, sample: RawRecord) -> DecodedRecord:
        """Decode a sample and map its labels to class names; labels without a match are left unchanged."""
        found = self._inner.decode(sample)
        return DecodedRecord(found.content, tuple(self._classes.named(label) or label for label in found.labels))


def choose_codec(layout: StreamLayout, wanted: DecodeOptions, window: Window) -> Codec:
    """Choose the codec by attribute names, content type and wrapping, or else by the first bytes (not consumed).

    Raises:
        DamagedStream: if the format is not supported.
    """
    codec = _by_form(layout, wanted, window)
    return codec if layout.classes is None else NumberedCodec(codec, layout.classes)


def _by_form(layout: StreamLayout, wanted: DecodeOptions, window: Window) -> Codec:
    if wanted.spec.attribute_names:
        return AttributeCodec(wanted)
    if layout.wrapped and layout.form in (None, "recordio", "pictures"):
        return AttributeCodec(wanted)
    form = layout.form if layout.form not in (None, "pictures") else _look(window)
    if form == "recordio":
        return _recordio_codec(window, wanted)
    codec = _codec(form, layout, wanted)
    return WrappedCodec(codec, wanted) if layout.wrapped and form != "protobuf" else codec


def _codec(form: StreamFormat, layout: StreamLayout, wanted: DecodeOptions) -> Codec:
    match form:
        case "protobuf":
            return ProtobufCodec(wanted)
        case "tfrecord":
            return ExampleCodec(wanted)
        case "tar":
            return TarCodec(wanted, layout.where)
        case "jsonl":
            return JsonLinesCodec(wanted, layout)
        case "csv" | "tsv":
            return DelimitedCodec(wanted, layout, tabs=form == "tsv")
        case "pictures":
            raise DamagedStream(f"holds bare pictures without labels; {_INSTEAD}", 0)
        case _:
            raise DamagedStream("holds Parquet, which cannot be read from a stream; use input mode File or FastFile", 0)


def _recordio_codec(window: Window, wanted: DecodeOptions) -> Codec:
    """Distinguish image records, which have a header before the image, from manifest attributes without one."""
    window.reach(64)
    first = window.view[window.at : window.at + 64]
    return AttributeCodec(wanted) if is_picture(first[8:]) or not wanted.images else ImageRecordCodec(wanted)


def _look(window: Window) -> StreamFormat:
    window.reach(512)
    first = bytes(window.view[window.at : window.at + 512])
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    seen: tuple[tuple[StreamFormat, bool], ...] = (
        ("recordio", first.startswith(MAGIC_BYTES)),
        ("tfrecord", len(first) >= 12 and masked_checksum(first[:8]) == int.from_bytes(first[8:12], "little")),
        ("tar", _is_tar(first)),
        ("jsonl", _JSON.match(text) is not None),
        ("pictures", is_picture(first)),
        ("parquet", first.startswith(b"PAR1")),
    )
    return next((form for form, fits in seen if fits), "csv")


def _is_tar(block: bytes) -> bool:
    try:
        return len(block) == 512 and bool(read_header(block).name)
    except ValueError:
        return False
