"""Reads a table as a file and as a stream, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.config.content_types import StreamFormat
from finetune.config.hyperparameters import DataSpec
from finetune.data.formats.codec import StreamLayout, choose_codec
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.framing.window import DamagedStream, Window
from finetune.data.readers.channel_files import list_files
from finetune.data.record import Content
from finetune.data.tables.reader import read_text_tables
from finetune.errors import UserError
from tests.support.labelled_data import data_spec, write_files
from tests.support.stream_writers import split_chunks


@dataclass(frozen=True)
class Outcome:
    """Records in order and the number of unusable rows, or the reason why nothing is read.

    Attributes:
        records: content and labels.
        bad: number of unusable rows.
        refusal: error message; empty if the table is read.
        warnings: warnings shown to the user.
    """

    records: tuple[tuple[Content, tuple[str, ...]], ...] = ()
    bad: int = 0
    refusal: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def classes(self) -> set[str]:
        return {label for _, labels in self.records for label in labels}


FILE_NAMES: dict[StreamFormat, str] = {"csv": "table.csv", "tsv": "table.tsv", "jsonl": "table.json"}


def from_file(folder: Path, content: bytes, stream_format: StreamFormat, **spec: object) -> Outcome:
    """The outcome of reading a table in File mode."""
    spec_ = data_spec(**{"max_bad_records": 1000, **spec})
    try:
        reader = read_text_tables(list_files("train", write_files(folder, {FILE_NAMES[stream_format]: content})), spec_)
    except UserError as error:
        return Outcome(refusal=str(error))
    records = [reader.read(index) for index in range(len(reader))]
    return Outcome(tuple((record.content, record.labels) for record in records), len(reader.left_out))


def from_stream(content: bytes, stream_format: StreamFormat, **spec: object) -> Outcome:
    """The outcome of reading a table in Pipe mode."""
    spec_: DataSpec = data_spec(**{"max_bad_records": 1000, **spec})
    window = Window(split_chunks(content, [1000, 37]))
    warnings: list[str] = []
    records, bad = [], 0
    try:
        codec = choose_codec(
            StreamLayout("channel 'train'", stream_format, warn=warnings.append),
            DecodeOptions("text-classification", spec_),
            window,
        )
        for sample in codec.split_records(window):
            try:
                decoded = codec.decode(sample)
            except ValueError:
                bad += 1
                continue
            records.append((decoded.content, decoded.labels))
    except (UserError, DamagedStream) as error:
        return Outcome(refusal=str(error))
    return Outcome(tuple(records), bad, warnings=tuple(warnings))
