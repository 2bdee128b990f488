"""Labelled data sets from the channels: opened, checked against each other, and split for validation if necessary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.config.compat.aliases import OBJECTIVE
from finetune.config.hyperparameters import DataSpec, JobSpec, ObserveSpec, TaskName
from finetune.data.announced_labels import AnnouncedReader, read_label_file
from finetune.data.labels import LabelMap, Origin, build_label_map, check_known_classes
from finetune.data.loading.dataset import Subset
from finetune.data.readers.channel_files import some_of
from finetune.data.readers.hosts_reader import readable_records
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.data.tables.columns import SharedColumns
from finetune.distributed.world import World
from finetune.errors import DataError, UserError
from finetune.job.data.sharded_channels import check_hosts, check_world, read_all_hosts, split_together
from finetune.job.data.streams import StreamPart, measure_streams, open_streams
from finetune.job.request import RECORD_PURPOSES, Request
from finetune.tasks.create import create_task
from finetune.tasks.task import Task
from finetune.tasks.thresholds import ThresholdTarget

logger = logging.getLogger(__name__)

LABELS = "labels"
"""Name of the channel with the file of class names."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Records of all channels.

    Attributes:
        task_name: task of the records.
        task: loss and metrics for these labels.
        labels: label map shared by all parts.
        train: training records; empty if nothing is trained.
        validation: validation records.
        test: test records.
        split: whether validation records were split off the training channel.
        streams: channels in Pipe mode, by purpose.
    """

    task_name: TaskName
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


def with_announced_classes(readers: Mapping[str, Reader], classes: LabelMap | None) -> dict[str, Reader]:
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
    for name in RECORD_PURPOSES:
        if name in sources:
            readers[name] = open_channel(sources[name], spec, shared)
            spec = spec.model_copy(update={"task": readers[name].task})
    return readers


def read_inputs(  # noqa: PLR0913  # by keyword
    request: Request,
    readers: Mapping[str, Reader],
    task: TaskName,
    announced: LabelMap | None,
    evaluated: LabelMap | None,
    *,
    stopped: Callable[[], bool],
    world: World,
) -> Inputs:
    """Determine the label map, check every channel against it, and split off validation records if necessary.

    Args:
        request: the checked request.
        readers: channels in File mode by purpose, in the order of `open_readers`.
        task: task of the records.
        announced: classes of `announced_classes`.
        evaluated: classes of the model, if it is only evaluated.
        stopped: whether to end any wait for a pipe.
        world: the processes of the job, which all call this.

    Raises:
        DataError: records or classes are inconsistent.
        UserError: the number of classes or records differs from the request.
        JobStopped: the job was stopped.
    """
    spec = request.spec
    check_world(request, world)
    if evaluated is not None:
        _check_evaluated_classes(request, announced, evaluated)
    origin: Origin = "network" if evaluated is not None else "announced" if announced is not None else "records"
    labels = evaluated or announced
    # Pipes number their classes in the announced order, which may be another one than that of the model.
    reordered = announced if labels is not None and announced != labels else None
    sources = open_streams(request, task, reordered, stopped)
    readers = read_all_hosts(request, with_announced_classes(readers, announced), world)
    holds_out = spec.data.validation_fraction > 0 and "validation" not in {*sources, *readers}
    splits_stream = holds_out and "train" in sources
    streams = {purpose: StreamPart(source) for purpose, source in sources.items()}
    if "train" in sources or not readers:
        labels, streams = measure_streams(sources, spec, labels, world, splits=splits_stream)
    if labels is None:
        labels = build_label_map(
            next(iter(readers.values())), multi_label=spec.data.multi_label, num_classes=spec.data.num_classes
        )
    _check_records(readers, labels, origin, spec.data.num_training_samples)
    parts = {name: Subset(reader, tuple(range(len(reader)))) for name, reader in readers.items()}
    splits_files = holds_out and "train" in readers and spec.strategy.trains
    if splits_files:
        halves = split_together(readers["train"], spec.data.validation_fraction, spec.run.seed, world)
        parts["train"] = Subset(readers["train"], halves.train)
        parts["validation"] = Subset(readers["train"], halves.validation)
    check_hosts(request, parts)
    train, validation, test = (parts.get(name) for name in RECORD_PURPOSES)
    is_split = splits_files or splits_stream
    inputs = Inputs(task, create_task(labels), labels, train, validation, test, is_split, streams)
    if spec.strategy.trains:
        _warn_about_empty_classes(inputs)
    return inputs


def _check_evaluated_classes(request: Request, announced: LabelMap | None, evaluated: LabelMap) -> None:
    """Check the requested classes against those of a model that is only evaluated.

    Raises:
        UserError: their number differs, or records of a pipe may have unknown classes.
    """
    num_classes = request.spec.data.num_classes
    if num_classes not in (None, len(evaluated)):
        raise UserError(
            f"num_classes={num_classes}, but the model to evaluate has {len(evaluated)} classes"
            f" ({some_of(evaluated.names)}): correct num_classes, or leave it out."
        )
    # For files, the labels that occur in records are checked; records of a pipe cannot be read in advance.
    unknown = sorted(set(announced.names if announced else ()) - set(evaluated.names))
    if unknown and request.pipes():
        raise UserError(
            f"class_names and the channel 'labels' name {some_of(unknown)}, but the model has"
            f" {some_of(evaluated.names)}: name its classes, in any order, or leave them out."
        )


def _check_records(
    readers: Mapping[str, Reader], labels: LabelMap, origin: Origin, num_training_samples: int | None
) -> None:
    """Check the classes, texts and number of records of all channels.

    Raises:
        DataError: records or classes are inconsistent.
        UserError: the number of records differs from the request.
    """
    for reader in readers.values():
        check_known_classes(reader, labels, origin)
    _check_texts(readers)
    if "train" in readers:
        _check_record_count(readers["train"], num_training_samples)


def _check_record_count(train: Reader, expected: int | None) -> None:
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
        name: len(reader.read(readable_records(reader).start).content)
        for name, reader in readers.items()
        if reader.task == "text-classification"
    }
    if len(set(counts.values())) > 1:
        text_counts = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise DataError(
            f"The channels differ in the number of texts per record: {text_counts}. Give all of them the same columns,"
            " or set text_column and text_pair_column."
        )


def _warn_about_empty_classes(inputs: Inputs) -> None:
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
            " trained",
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


def training_counts(inputs: Inputs) -> dict[str, int]:
    """Number of training records of every class; empty if unknown, as for an uncounted stream."""
    stream = inputs.streams.get("train")
    if stream is not None:
        return dict(zip(inputs.labels.names, stream.class_counts or (), strict=False))
    return class_counts(inputs.train, inputs.labels) if inputs.train else {}


def file_channels(request: Request, scratch: Path) -> dict[str, ChannelSource]:
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
        for name in RECORD_PURPOSES
        if name in folders
    }


def target_of(spec: ObserveSpec) -> ThresholdTarget | None:
    """The target precision or recall, if one is set."""
    if spec.target_precision is None and spec.target_recall is None:
        return None
    return ThresholdTarget(spec.target_precision, spec.target_recall)


def check_target(inputs: Inputs, spec: ObserveSpec) -> None:
    """Refuse a target that thresholds cannot reach.

    Raises:
        UserError: the task has more than two exclusive classes, or there are no validation records.
    """
    target = target_of(spec)
    if target is None:
        return
    name = "target_precision" if target.precision is not None else "target_recall"
    if not inputs.task.has_thresholds:
        raise UserError(
            f"{name} needs two classes or multi_label=true, but there are {len(inputs.labels)} exclusive classes:"
            " leave it out."
        )
    if inputs.validation is None:
        raise UserError(
            f"{name} needs validation records: give a channel 'validation', or validation_fraction above 0."
        )


def check_metrics_are_defined(spec: JobSpec, inputs: Inputs) -> None:
    """Check that evaluated records in files define the objective metric and `best_metric`.

    Raises:
        DataError: one of them is undefined and would be missing from the log.
    """
    best = spec.optimization.best_metric
    requested = [(OBJECTIVE, spec.objective or "", spec.objective or "")]
    requested += [("best_metric", best, f"validation:{best}")] if spec.strategy.trains else []
    for hyperparameter, value, metric in requested:
        part, _, name = metric.partition(":")
        records = inputs.parts().get(part)
        if records is None or name not in _UNDEFINED_REASONS:
            continue
        if reason := _UNDEFINED_REASONS[name](records):
            raise DataError(f"{hyperparameter}={value} is not defined by the {part} records: {reason}.")


def _same_labels(records: Subset) -> str:
    label_sets = {frozenset(records.reader.labels(index)) for index in records.indices}
    return "" if len(label_sets) > 1 else "all have the same labels"


def _no_label_at_all(records: Subset) -> str:
    return "" if any(records.reader.labels(index) for index in records.indices) else "none has a label"


_UNDEFINED_REASONS = {
    "auc": _same_labels,
    **dict.fromkeys(("macro_f1", "macro_precision", "macro_recall"), _no_label_at_all),
}
"""Functions by metric that return the reason why records do not define it; empty if they do."""
