"""First-pass scan of a stream: counts records and classes if they are not given in advance."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass

from finetune.data.labels import MAX_CLASSES, too_many_classes_message
from finetune.data.pipe.source import RecordSource
from finetune.data.pipe.split import StreamSplit
from finetune.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FirstPassScan:
    """Result of a first-pass scan.

    Attributes:
        records: training records per epoch.
        classes: training records of each class, by label as it occurs; 0 for a class that is only held out.
        held_out: additional records, held out for validation.
        fault: reason why the first bad record could not be decoded.
        has_several: whether any record has several classes.
    """

    records: int
    classes: dict[str, int]
    held_out: int = 0
    fault: str = ""
    has_several: bool = False


def scan_first_pass(source: RecordSource, split: StreamSplit | None = None) -> FirstPassScan:
    """Scan one epoch without decoding images; records that cannot be decoded are left for the decoding stage to report.

    Args:
        source: source of all records.
        split: selects the held-out records.

    Raises:
        DataError: the stream is damaged or empty, or has too many classes.
        JobStopped: the job was stopped.
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
            if len(classes) > MAX_CLASSES:
                raise DataError(f"channel {source.channel!r}: {too_many_classes_message(classes)}")
    _log.info(
        "channel %r: the first pass took %.1f s and found %d records of %d classes; to skip it, set class_names (or"
        " provide a 'labels' channel) and num_training_samples",
        source.channel,
        time.monotonic() - began,
        records + held_out,
        len(classes),
    )
    return FirstPassScan(records, dict(classes), held_out, fault, has_several)
