"""A stop request ends reading between two records of a stream, for any content."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest

from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.pipe.fifo import PipeOptions
from finetune.data.pipe.source import StreamSource
from finetune.errors import JobStopped
from tests.support.labelled_data import data_spec
from tests.support.stream_writers import fill


def source(folder: Path, stop_requests: list[bool]) -> StreamSource:
    options = PipeOptions("train", folder, folder / "state", stopped=lambda: bool(stop_requests))
    return StreamSource(
        options, StreamLayout("channel 'train'", "jsonl"), DecodeOptions("text-classification", data_spec())
    )


def test_stop_request_ends_reading_a_line_of_many_objects(tmp_path: Path) -> None:
    stop_requests: list[bool] = []
    fill(tmp_path, b"{}" * 300_000 + b"\n")
    count = 0
    with pytest.raises(JobStopped):
        for _ in source(tmp_path, stop_requests).read_next():
            count += 1
            if count == 1000:
                stop_requests.append(True)
    assert count == 1000


def test_stop_request_ends_decompression(tmp_path: Path) -> None:
    content = gzip.compress(b"\n" * (64 << 20))
    assert len(content) < 1 << 19  # one chunk of the pipe
    fill(tmp_path, content)
    polls = itertools.count()
    options = PipeOptions("train", tmp_path, tmp_path / "state", stopped=lambda: next(polls) >= 2)
    decode_options = DecodeOptions("text-classification", data_spec())
    with pytest.raises(JobStopped):
        list(StreamSource(options, StreamLayout("channel 'train'", "jsonl"), decode_options).read_next())
    assert next(polls) < 10
