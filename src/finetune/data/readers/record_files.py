"""Random access to records in RecordIO, TFRecord and tar files.

Each file is read once by the stream parsers, which verify it, and the position of each record is indexed in 36 bytes.
After that, records can be read individually, so ordering, splitting and workers are the same as for any other reader.
Compressed files are first decompressed into a scratch folder, since gzip does not support random access.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune.config.hyperparameters import TaskName
from finetune.data.bad_records import too_many_message
from finetune.data.formats.codec import Codec, StreamLayout, choose_codec
from finetune.data.formats.image_records import is_encoded_image
from finetune.data.formats.named_fields import DecodeOptions, RawRecord
from finetune.data.formats.tar_codec import TarCodec
from finetune.data.framing.gzip_members import MAGIC as GZIP
from finetune.data.framing.gzip_members import decompress_gzip
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.readers.channel_files import Listing, count_endings
from finetune.data.readers.record_file_names import RecordFile
from finetune.data.record import Record
from finetune.errors import DataError, PlatformError

_log = logging.getLogger(__name__)

IMAGES: TaskName = "image-classification"
TEXTS: TaskName = "text-classification"

_CHUNK = 1 << 20
_END_OF_TAR = bytes(1024)


@dataclass(frozen=True, slots=True)
class _IndexedFile:
    """A file and its codec.

    Attributes:
        path: path of the file, or of its decompressed copy.
        tail: bytes to append to a record when it is read individually.
    """

    key: str
    path: Path
    codec: Codec
    tail: bytes


@dataclass(slots=True)
class _RecordIndex:
    """Positions and labels of all records.

    Attributes:
        file_indices: index into `files`, per record.
        numbers: index within the file, per record.
        offsets: offset of the first byte, per record.
        lengths: length in bytes, per record.
        labels: classes, per record.
        interned: class combinations, each stored once, so that a million records share a few tuples.
        left_out: key and reason of each record that cannot be used.
    """

    files: list[_IndexedFile] = field(default_factory=list)
    file_indices: array[int] = field(default_factory=lambda: array("i"))
    numbers: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    labels: list[tuple[str, ...]] = field(default_factory=list)
    interned: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)


class RecordFilesReader:
    """Labeled images or texts in record files; a `Reader`.

    Attributes:
        channel: name of the channel.
        task: whether the records contain images or texts.
        left_out: key and reason of each record that cannot be decoded; at most `max_bad_records`.
    """

    def __init__(self, channel: str, task: TaskName, index: _RecordIndex) -> None:
        """Initialize from the index built by `read_record_files`."""
        self.channel = channel
        self.task: TaskName = task
        self.left_out = tuple(index.left_out)
        self._index = index

    def __len__(self) -> int:
        """Number of records."""
        return len(self._index.labels)

    def key(self, index: int) -> str:
        """File of record `index` and its zero-based position in the file."""
        return f"{self._index.files[self._index.file_indices[index]].key}:{self._index.numbers[index]}"

    def labels(self, index: int) -> tuple[str, ...]:
        """Classes of record `index`."""
        return self._index.labels[index]

    def clue(self, _index: int) -> int:
        """Always 0: the length of a record also depends on its labels, so it does not identify equal content."""
        return 0

    def read(self, index: int) -> Record:
        """Return record `index` with its content.

        Raises:
            DataError: if the file is no longer readable, or has changed.
        """
        indexed_file = self._index.files[self._index.file_indices[index]]
        key, offset, length = self.key(index), self._index.offsets[index], self._index.lengths[index]
        try:
            with indexed_file.path.open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), length, offset)
            record = next(indexed_file.codec.split_records(Window([content, indexed_file.tail])))
            return Record(key, indexed_file.codec.decode(record).content, self.labels(index))
        except OSError as error:
            raise DataError(f"channel {self.channel!r}: {key} cannot be read: {error.strerror}") from error
        except (ValueError, StopIteration) as error:
            reason = str(error) or "it is empty"
            raise DataError(
                f"channel {self.channel!r}: {key} has changed since the start of the job: {reason}"
            ) from error


def task_of_records(listing: Listing, file: RecordFile, options: DecodeOptions) -> TaskName:
    """Infer the task from the first record: text classification if it is a text, else image classification.

    Args:
        listing: the channel's files.
        file: one of the files.
        options: fields to extract; its task is ignored.
    """
    layout = StreamLayout(f"channel {listing.channel!r}: {file.key}", file.format)
    for task in (IMAGES, TEXTS):
        try:
            window = Window(decompress_gzip(_read_chunks(listing.root / file.key)))
            codec = choose_codec(layout, replace(options, task=task), window)
            content = codec.decode(next(codec.split_records(window))).content
        except (ValueError, StopIteration, OSError):
            continue
        if not isinstance(content, bytes) or is_encoded_image(content):
            return task
    return IMAGES


def read_record_files(
    listing: Listing, files: Sequence[RecordFile], options: DecodeOptions, scratch: Path | None
) -> RecordFilesReader:
    """Index every record of a channel, in the order of the file names.

    Args:
        listing: the channel's files.
        files: files that contain records.
        options: fields to extract.
        scratch: folder for decompressed files.

    Raises:
        DataError: if a file is damaged, too many records cannot be used, or there are none.
    """
    other_keys = set(listing.keys) - {file.key for file in files}
    if other_keys:
        _log.info("channel %r: ignored files that are not record files: %s", listing.channel, count_endings(other_keys))
    start_time = time.monotonic()
    index = _RecordIndex()
    for file in files:
        _index_file(listing, file, options, scratch, index)
    if not index.labels:
        raise DataError(f"channel {listing.channel!r}: none of its {len(files)} record files contains a usable record")
    seconds = time.monotonic() - start_time
    _log.info(
        "channel %r: indexed %d records in %d files in %.1f s", listing.channel, len(index.labels), len(files), seconds
    )
    return RecordFilesReader(listing.channel, options.task, index)


def _index_file(
    listing: Listing, file: RecordFile, options: DecodeOptions, scratch: Path | None, index: _RecordIndex
) -> None:
    where = f"channel {listing.channel!r}: {file.key}"
    if file.format != "recordio":
        options = replace(options, spec=options.spec.model_copy(update={"attribute_names": ()}))
    number, start = 0, 0
    try:
        path = _decompressed_copy(listing.root / file.key, scratch)
        if not path.stat().st_size:
            return
        window = Window(_read_chunks(path))
        codec = choose_codec(StreamLayout(where, file.format), options, window)
        index.files.append(_IndexedFile(file.key, path, codec, _END_OF_TAR if file.format == "tar" else b""))
        for record, end in _records_with_ends(codec, window):
            _add_record(index, (number, start, end - start), record, options.spec.max_bad_records, listing.channel)
            number, start = number + 1, end
    except DamagedStream as error:
        raise DataError(
            f"{where} {error}, in record {number} (from 0), which begins at byte {error.offset:,}; check that the"
            " file is complete and has the format of its name or content type"
        ) from error
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from error


def _records_with_ends(codec: Codec, window: Window) -> Iterator[tuple[RawRecord, int]]:
    """Yield records, each with its end offset in the file."""
    if isinstance(codec, TarCodec):
        yield from codec.split_records_with_ends(window)
        return
    for record in codec.split_records(window):
        yield record, window.offset


def _add_record(index: _RecordIndex, span: tuple[int, int, int], record: RawRecord, limit: int, channel: str) -> None:
    indexed_file = index.files[-1]
    number, offset, length = span
    try:
        labels = indexed_file.codec.decode(record).labels
    except ValueError as error:
        key = f"{indexed_file.key}:{number}"
        index.left_out.append((key, str(error)))
        if len(index.left_out) > limit:
            raise DataError(too_many_message(channel, index.left_out[-1], len(index.left_out), limit)) from error
        return
    index.file_indices.append(len(index.files) - 1)
    index.numbers.append(number)
    index.offsets.append(offset)
    index.lengths.append(length)
    index.labels.append(index.interned.setdefault(labels, labels))


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _decompressed_copy(path: Path, scratch: Path | None) -> Path:
    """Return the file, or a decompressed copy if it is compressed."""
    with path.open("rb") as file:
        if file.read(len(GZIP)) != GZIP:
            return path
    if scratch is None:
        raise RuntimeError("compressed files need a scratch folder")
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="decompressed-", delete=False) as target:
        try:
            for chunk in decompress_gzip(_read_chunks(path)):
                target.write(chunk)
        except OSError as error:
            free = shutil.disk_usage(scratch).free
            raise PlatformError(
                f"{path.name} cannot be decompressed: {error.strerror}, {free:,} bytes are free; use a larger volume"
                " or uncompressed files."
            ) from error
    return Path(target.name)
