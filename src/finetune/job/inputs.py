"""Labelled data sets from the channels: opened, checked against each other, and split for validation if necessary."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.config.hyperparameters import DataSpec, JobSpec, Task
from finetune.data.announced_labels import AnnouncedReader, read_label_file
from finetune.data.labels import LabelMap, Origin, build_label_map, check_known_classes
from finetune.data.loading.dataset import Subset
from finetune.data.loading.split import stratified_split
from finetune.data.readers.channel_files import some_of
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.data.tables.columns import SharedColumns
from finetune.errors import DataError, UserError
from finetune.job.request import Request
from finetune.job.streams import StreamPart

logger = logging.getLogger(__name__)

_PURPOSES = ("train", "validation", "test")
LABELS = "labels"
"""Name of the channel with the file of class names."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Records of all channels.

    Attributes:
        task: task of the records.
        labels: label map shared by all parts.
        train: training records; empty if nothing is trained.
        validation: validation records.
        test: test records.
        split: whether validation records were split off the training channel.
        streams: channels in Pipe mode, by purpose.
    """

    task: Task
    labels: LabelMap
    train: Subset | None
    validation: Subset | None
    test: Subset | None
    split: bool
    streams: Mapping[str, StreamPart] = field(default_factory=dict)

    def parts(self) -> dict[str, Subset]:
        """Non-empty parts by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None and part.indices}


def announced_classes(request: Request) -> LabelMap | None:
    """The classes of `class_names` or of the file in the channel `labels`; `None` if neither is given.

    Raises:
        DataError: the file cannot be used.
        UserError: the two contradict each other or `num_classes`, or do not name two or more different classes.
    """
    data = request.spec.data
    folder = request.folders().get(LABELS)
    in_file = read_label_file(LABELS, folder) if folder is not None else ()
    if folder is not None and data.class_names and data.class_names != in_file:
        raise UserError(
            f"class_names={','.join(data.class_names)!r}, but channel {LABELS!r} names {some_of(in_file)}: leave one of"
            " them out."
        )
    names = data.class_names or in_file
    if not names and folder is None:
        return None
    origin = "class_names" if data.class_names else f"channel {LABELS!r}"
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"{origin} names {some_of(names) or 'nothing'}: name two or more different classes.")
    if data.num_classes not in (None, len(names)):
        raise UserError(f"num_classes={data.num_classes}, but {origin} has {len(names)}: leave one of them out.")
    return LabelMap(names, data.multi_label)


def as_announced(readers: Mapping[str, Reader], classes: LabelMap | None) -> dict[str, Reader]:
    """Wrap the readers so that labels may be indices into the announced classes."""
    return {name: reader if classes is None else AnnouncedReader(reader, classes) for name, reader in readers.items()}


def open_readers(sources: Mapping[str, ChannelSource], spec: DataSpec) -> dict[str, Reader]:
    """Open `train`, `validation` and `test` if present; the task of the first channel is required of the others.

    Raises:
        DataError: a channel is missing or empty, or its files cannot be used.
        UserError: the content of the channels contradicts the request.
    """
    readers: dict[str, Reader] = {}
    shared = SharedColumns()
    for name in _PURPOSES:
        if name in sources:
            readers[name] = open_channel(sources[name], spec, shared)
            spec = spec.model_copy(update={"task": readers[name].task})
    return readers


@dataclass(frozen=True, slots=True)
class Beforehand:
    """Facts known before the files are read.

    Attributes:
        task: task of the records.
        labels: classes of a model that is evaluated as it is, announced classes, or those of a stream; `None` to derive
            them from the first channel.
        origin: source of `labels`, for error messages.
        streams: channels in Pipe mode, by purpose.
        splits: whether validation records are split off the training stream.
    """

    task: Task
    labels: LabelMap | None
    origin: Origin = "records"
    streams: Mapping[str, StreamPart] = field(default_factory=dict)
    splits: bool = False


def hold_together(readers: Mapping[str, Reader], spec: JobSpec, before: Beforehand) -> Inputs:
    """Determine the label map, check every channel against it, and split off validation records if none are given.

    Args:
        readers: by purpose, in the order of `open_readers`.
        spec: the checked hyperparameters.
        before: facts known before the files are read.

    Raises:
        DataError: records or classes are inconsistent.
        UserError: the number of classes or records differs from the request.
    """
    data = spec.data
    labels = before.labels or build_label_map(
        next(iter(readers.values())), multi_label=data.multi_label, num_classes=data.num_classes
    )
    for reader in readers.values():
        check_known_classes(reader, labels, before.origin)
    _check_texts(readers)
    if "train" in readers:
        _check_count(readers["train"], data.num_training_samples)
    parts = {name: Subset(reader, tuple(range(len(reader)))) for name, reader in readers.items()}
    trains = "train" in parts and spec.strategy.name != "evaluate"
    splits = trains and "validation" not in {*parts, *before.streams} and spec.data.validation_fraction > 0
    if splits:
        halves = stratified_split(readers["train"], spec.data.validation_fraction, spec.run.seed)
        parts["train"] = Subset(readers["train"], halves.train)
        parts["validation"] = Subset(readers["train"], halves.validation)
    train, validation, test = (parts.get(name) for name in _PURPOSES)
    return Inputs(before.task, labels, train, validation, test, splits or before.splits, before.streams)


def _check_count(train: Reader, expected: int | None) -> None:
    """Check the size of the training channel against the request, with or without bad records.

    Raises:
        UserError: the numbers differ, so the channel may have been copied incompletely.
    """
    if expected is not None and expected not in (len(train), len(train) + len(train.left_out)):
        raise UserError(
            f"num_training_samples={expected}, but channel {train.channel!r} has {len(train)} records: add the missing"
            " ones, correct num_training_samples, or leave it out."
        )


def _check_texts(readers: Mapping[str, Reader]) -> None:
    """Check that the records of all channels have the same number of texts, one or two.

    Raises:
        DataError: the channels differ.
    """
    counts = {
        name: len(reader.read(0).content) for name, reader in readers.items() if reader.task == "text-classification"
    }
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise DataError(
            f"The channels differ in texts to a record: {told}. Give all of them the same columns, or set text_column"
            " and text_pair_column."
        )


def warn_about_empty_classes(inputs: Inputs) -> None:
    """Log a warning that names the classes without training records, if the records have been counted."""
    stream = inputs.streams.get("train")
    if inputs.train is not None:
        counts = class_counts(inputs.train, inputs.labels)
    elif stream is not None and stream.class_counts is not None:
        counts = dict(zip(inputs.labels.names, stream.class_counts, strict=True))
    else:
        return
    empty = [name for name, count in counts.items() if not count]
    if empty:
        logger.warning(
            "channel 'train' has no records of %d of %d classes (%s): the model has outputs for them that are never"
            " trained to be right",
            len(empty),
            len(counts),
            some_of(empty),
        )


def class_counts(part: Subset, labels: LabelMap) -> dict[str, int]:
    """Number of records of every class, in the order of the labels."""
    counts = dict.fromkeys(labels.names, 0)
    for index in part.indices:
        for name in part.reader.labels(index):
            counts[name] += 1
    return counts


def sources_of(request: Request, scratch: Path) -> dict[str, ChannelSource]:
    """File-mode channels with records by purpose, each with the channel that lists its images, if any.

    Args:
        request: the request, with folders and content types.
        scratch: folder for decompressed files.
    """
    folders, channels = request.folders(), request.channels.by_purpose
    return {
        name: ChannelSource(
            name=name,
            folder=folders[name],
            list_folder=folders.get(f"{name}_lst"),
            content_type=channels[name].content_type,
            class_ids=channels[name].class_ids,
            label_first=channels[name].label_size == 1,
            scratch=scratch,
        )
        for name in _PURPOSES
        if name in folders
    }
