"""Which classes does a stream have, and how many records? A pass over one of its pipes tells where nobody else does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass

from finetune.data.stream_source import StreamSource

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Census:
    """What a pass over a stream found.

    Attributes:
        records: in one epoch.
        classes: records of each class, by label as it came.
    """

    records: int
    classes: dict[str, int]


def take_census(source: StreamSource) -> Census:
    """Read one epoch without decoding pictures; records that cannot be understood are left to who decodes them.

    Raises:
        DataError: the stream is damaged or empty.
        Stopped: the job was asked to stop.
    """
    began = time.monotonic()
    classes: Counter[str] = Counter()
    records = 0
    with closing(source.read_next()) as stream:
        for record in stream:
            records += 1
            try:
                classes.update(record.decode().labels)
            except ValueError:
                continue
    _log.info(
        "channel %r: a first pass of %.1f s counted %d records of %d classes; class_names (or a channel 'labels') and"
        " num_training_samples would save it",
        source.channel,
        time.monotonic() - began,
        records,
        len(classes),
    )
    return Census(records, dict(classes))
