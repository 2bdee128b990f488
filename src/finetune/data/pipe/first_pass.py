"""Which classes does a stream have, and how many records? A pass over one of its pipes tells where nobody else does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass

from finetune.data.labels import MOST_CLASSES, too_many_classes
from finetune.data.pipe.source import RecordSource
from finetune.data.pipe.split import StreamSplit
from finetune.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Census:
    """What a pass over a stream found.

    Attributes:
        records: in one epoch, for training.
        classes: of these, records of each class, by label as it came; 0 for a class that is held out only.
        held_out: further records, for validation.
        fault: why the first record that cannot be understood cannot be.
        has_several: whether any record has several classes.
    """

    records: int
    classes: dict[str, int]
    held_out: int = 0
    fault: str = ""
    has_several: bool = False


def take_census(source: RecordSource, split: StreamSplit | None = None) -> Census:
    """Read one epoch without decoding pictures; records that cannot be understood are left to who decodes them.

    Args:
        source: of all records.
        split: holds some of them out.

    Raises:
        DataError: the stream is damaged or empty, or there are too many classes.
        JobStopped: the job was asked to stop.
    """
    began = time.monotonic()
    classes: Counter[str] = Counter()
    records = held_out = 0
    fault = ""
    has_several = False
    with closing(source.read_next()) as stream:
        for record in stream:
            is_held_out = split is not None and split.holds_out(record)
            held_out += is_held_out
            records += not is_held_out
            try:
                labels = record.decode().labels
            except ValueError as error:
                fault = fault or f"record {records + held_out - 1} (from 0) {error}"
                continue
            has_several |= len(labels) > 1
            classes.update(dict.fromkeys(labels, int(not is_held_out)))
            if len(classes) > MOST_CLASSES:
                raise DataError(f"channel {source.channel!r}: {too_many_classes(classes)}")
    _log.info(
        "channel %r: a first pass of %.1f s counted %d records of %d classes; class_names (or a channel 'labels') and"
        " num_training_samples would save it",
        source.channel,
        time.monotonic() - began,
        records + held_out,
        len(classes),
    )
    return Census(records, dict(classes), held_out, fault, has_several)
