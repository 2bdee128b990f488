"""From channels in Pipe mode to streams of records, whose classes and number are announced or found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from finetune.config.content_types import TEXT_FORMS
from finetune.config.hyperparameters import DataSpec, JobSpec, Task
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import Wanted
from finetune.data.in_memory import KeptRecords
from finetune.data.labels import LabelMap, label_map_of
from finetune.data.pipe.fifo import PipePlace
from finetune.data.pipe.first_pass import Census, take_census
from finetune.data.pipe.source import RecordSource, StreamSource
from finetune.data.pipe.split import StreamShare, StreamSplit
from finetune.data.record import Record
from finetune.data.tables.columns import SharedColumns
from finetune.errors import DataError
from finetune.job.request import Request

_TEXTS = frozenset(TEXT_FORMS.values())


@dataclass(frozen=True, slots=True)
class StreamPart:
    """A stream that serves one purpose.

    Attributes:
        source: of its records.
        count: records of an epoch, where that is known; about, where a split was not counted.
        class_counts: records of each class in the order of the labels, where that is known.
        total: records of an epoch with those that are held out, where that is known.
    """

    source: RecordSource
    count: int | None = None
    class_counts: tuple[int, ...] | None = None
    total: int | None = None


def task_of(request: Request) -> Task | None:
    """The task as the request tells it: by hyperparameter, or by the content type of a channel in Pipe mode."""
    if request.spec.data.task is not None:
        return request.spec.data.task
    forms = [channel.form for channel in request.pipes().values()]
    if not forms:
        return None
    return "text-classification" if forms[0] in _TEXTS else "image-classification"


def open_streams(
    request: Request, task: Task, classes: LabelMap | None, stopped: Callable[[], bool]
) -> dict[str, StreamSource]:
    """The channels in Pipe mode by their purpose; opens no pipe.

    Args:
        request: with the channels.
        task: what the records are.
        classes: that the request announces, where they are not those of the network in its order.
        stopped: whether any wait is to end.
    """
    spec, paths, shared = request.spec, request.paths, SharedColumns()
    return {
        purpose: StreamSource(
            PipePlace(channel.name, paths.data, paths.pipe_state, spec.run.pipe_wait_seconds, stopped),
            StreamLayout(
                f"channel {channel.name!r}",
                channel.form,
                channel.wrapped,
                shared=request.shares(channel.name),
                classes=classes,
            ),
            Wanted(
                task, _without_header(spec.data) if channel.label_size == 1 else spec.data, channel.class_ids, shared
            ),
        )
        for purpose, channel in request.pipes().items()
    }


def _without_header(spec: DataSpec) -> DataSpec:
    return spec.model_copy(update={"header": "false"}) if spec.header == "auto" else spec


def announced(
    streams: Mapping[str, StreamSource], spec: JobSpec, known: LabelMap | None, *, splits: bool
) -> tuple[LabelMap | None, dict[str, StreamPart]]:
    """Find classes and number of records, by a pass over the training stream where the request does not say them.

    So few records that none could fall to validation are counted in any case, before an epoch is paid for.

    Args:
        streams: by purpose.
        spec: the checked hyperparameters.
        known: the classes, where a network, the request or another channel tells them.
        splits: whether records of the training stream are held out for validation.

    Returns:
        The classes, `None` where another channel has to tell them; and the streams with what is known of them.

    Raises:
        DataError: the stream cannot be read, or has too few classes, or too few records to hold some out.
        UserError: there are more classes than the user says.
        JobStopped: the job was asked to stop.
    """
    parts = {purpose: StreamPart(source) for purpose, source in streams.items()}
    labels = known or _numbered(spec)
    source = streams.get("train") or (next(iter(streams.values())) if labels is None and streams else None)
    if source is None:
        return labels, parts
    trains = spec.strategy.name != "evaluate" and "train" in streams
    split = StreamSplit(spec.data.validation_fraction, spec.run.seed) if trains and splits else None
    given = spec.data.num_training_samples
    few = split is not None and given is not None and split.may_miss_a_side(given)
    census = take_census(source, split) if labels is None or few or (trains and _counts(spec)) else None
    if census is not None:
        labels = labels or _labels(census, source, spec)
        if split is not None and not census.fault:
            split.check_sides(source.channel, census.records, census.held_out)
    if trains:
        parts |= _shares(source, split, given, census)
        parts["train"] = replace(parts["train"], class_counts=_class_counts(census, labels))
    return labels, parts


def _shares(
    source: StreamSource, split: StreamSplit | None, given: int | None, census: Census | None
) -> dict[str, StreamPart]:
    """The training stream, and what of it is held out; the number that is `given` counts both."""
    total = given or (None if census is None else census.records + census.held_out)
    if split is None:
        return {"train": StreamPart(source, total, total=total)}
    counted = None if census is None else census.records
    estimate = None if total is None else split.remaining(total)
    train = StreamShare(source, split, held_out=False)
    return {
        "train": StreamPart(train, counted or estimate, total=total),
        "validation": StreamPart(StreamShare(source, split, held_out=True), census.held_out if census else None),
    }


def _numbered(spec: JobSpec) -> LabelMap | None:
    names = tuple(str(number) for number in range(spec.data.num_classes or 0))
    return LabelMap(names, spec.data.multi_label) if names else None


def _counts(spec: JobSpec) -> bool:
    """Whether the number of records, or of those of each class, decides anything and is not given."""
    optimisation = spec.optimisation
    by_total = optimisation.lr_schedule != "constant" or optimisation.warmup_fraction > 0
    return optimisation.class_weights == "balanced" or (by_total and spec.data.num_training_samples is None)


def _labels(census: Census, source: StreamSource, spec: JobSpec) -> LabelMap:
    if not census.classes and census.fault:
        raise DataError(f"channel {source.channel!r}: no record can be understood: {census.fault}")
    seen = [Record(f"a record of class {name}", b"", (name,)) for name in census.classes]
    reader = KeptRecords(source.channel, source.task, seen, [(census.fault, "")] if census.fault else ())
    return label_map_of(
        reader,
        multi_label=spec.data.multi_label,
        num_classes=spec.data.num_classes,
        records=census.records + census.held_out,
        has_several=census.has_several,
    )


def _class_counts(census: Census | None, labels: LabelMap | None) -> tuple[int, ...] | None:
    if census is None or labels is None:
        return None
    counts = dict.fromkeys(labels.names, 0)
    for label, count in census.classes.items():
        name = labels.named(label)
        if name is not None:
            counts[name] += count
    return tuple(counts.values())
