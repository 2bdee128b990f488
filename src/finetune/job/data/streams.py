"""Record streams of channels in Pipe mode, with their classes and sizes from the request or a first-pass scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.config.content_types import TEXT_FORMATS
from finetune.config.hyperparameters import DataSpec, JobSpec, TaskName
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.in_memory import InMemoryReader
from finetune.data.labels import LabelMap, build_label_map
from finetune.data.pipe.batch_shares import SingleProcess, StreamSharing
from finetune.data.pipe.fifo import PipeOptions
from finetune.data.pipe.first_pass import FirstPassScan, scan_first_pass
from finetune.data.pipe.sharing import SharedStreamReceiver, SharedStreamSender, make_fifos
from finetune.data.pipe.source import RecordSource, StreamSource
from finetune.data.pipe.split import StreamShare, StreamSplit
from finetune.data.record import Record
from finetune.data.tables.columns import SharedColumns
from finetune.distributed.world import World
from finetune.errors import DataError, JobStopped
from finetune.job.request import Request

_TEXTS = frozenset(TEXT_FORMATS.values())


@dataclass(frozen=True, slots=True)
class StreamPart:
    """A stream used for one purpose.

    Attributes:
        source: source of its records.
        count: records per epoch, if known; an estimate for a split that was not counted.
        class_counts: records of each class in the order of the labels, if known.
        total: records per epoch including held-out ones, if known, and if they are all on every host.
        is_sharded: whether its objects are distributed over several hosts.
        host_counts: records per epoch of each host, if they are distributed and counted.
    """

    source: RecordSource
    count: int | None = None
    class_counts: tuple[int, ...] | None = None
    total: int | None = None
    is_sharded: bool = False
    host_counts: tuple[int, ...] = ()


def task_of(request: Request) -> TaskName | None:
    """The task given by hyperparameter, or implied by the content type of a channel in Pipe mode."""
    if request.spec.data.task is not None:
        return request.spec.data.task
    formats = [channel.stream_format for channel in request.pipes().values()]
    if not formats:
        return None
    return "text-classification" if formats[0] in _TEXTS else "image-classification"


def open_streams(
    request: Request, task: TaskName, classes: LabelMap | None, stopped: Callable[[], bool]
) -> dict[str, StreamSource]:
    """Create the streams of channels in Pipe mode, by purpose, without opening a pipe.

    Args:
        request: the request, with the channels.
        task: task of the records.
        classes: announced classes, if they are not those of the model in the same order.
        stopped: whether to end any wait.
    """
    spec, paths, shared = request.spec, request.paths, SharedColumns()
    return {
        purpose: StreamSource(
            PipeOptions(channel.name, paths.data, paths.pipe_state, spec.run.pipe_wait_seconds, stopped),
            StreamLayout(
                f"channel {channel.name!r}",
                channel.stream_format,
                channel.wrapped,
                shared=request.is_sharded(channel.name),
                classes=classes,
            ),
            DecodeOptions(
                task, _without_header(spec.data) if channel.label_size == 1 else spec.data, channel.class_ids, shared
            ),
        )
        for purpose, channel in request.pipes().items()
    }


def _without_header(spec: DataSpec) -> DataSpec:
    return spec.model_copy(update={"header": "false"}) if spec.header == "auto" else spec


def share_streams(purposes: Iterable[str], world: World, scratch: Path) -> dict[str, StreamSharing]:
    """Connect the processes of every host, one of which reads the streams; called by all processes.

    Args:
        purposes: purposes of the streams.
        world: the processes of the job.
        scratch: folder on a local disk.

    Returns:
        How the processes share each stream, by purpose.

    Raises:
        ProcessLostError: another process has ended.
    """
    names = sorted(purposes)
    if not names or world.size == 1:
        return {name: SingleProcess() for name in names}
    if not world.local_rank:
        for name in names:
            make_fifos(scratch / "streams" / name, world.local_size)
    folder = Path(world.gather_from_hosts(str(scratch / "streams"))[world.host])
    sharing: dict[str, StreamSharing] = {}
    if world.local_rank:
        sharing = {name: SharedStreamReceiver(folder / name, world.local_rank) for name in names}
    world.barrier()
    if not world.local_rank:
        sharing = {name: SharedStreamSender(folder / name, world.local_size) for name in names}
    return sharing


def measure_streams(
    streams: Mapping[str, StreamSource], spec: JobSpec, known: LabelMap | None, world: World, *, splits: bool
) -> tuple[LabelMap | None, dict[str, StreamPart]]:
    """Determine classes and record counts, with a pass over the training stream if the request does not give them.

    If there are so few records that validation might get none, they are counted in any case, before the first epoch.

    Args:
        streams: by purpose.
        spec: the checked hyperparameters.
        known: the classes, if known from a model, the request or another channel.
        world: the processes of the job, which all call this; one process of each host reads the stream.
        splits: whether records of the training stream are held out for validation.

    Returns:
        The classes, `None` if another channel has to define them; and the streams with their known counts.

    Raises:
        DataError: the stream cannot be read, or has too few classes, or too few records to hold some out.
        UserError: there are more classes than `num_classes`.
        JobStopped: the job was stopped.
    """
    parts = {purpose: StreamPart(source, is_sharded=source.is_sharded) for purpose, source in streams.items()}
    labels = known or _numbered_classes(spec)
    source = streams.get("train") or (next(iter(streams.values())) if labels is None and streams else None)
    if source is None:
        return labels, parts
    trains = spec.strategy.trains and "train" in streams
    split = StreamSplit(spec.data.validation_fraction, spec.run.seed) if trains and splits else None
    expected = spec.data.num_training_samples
    few = split is not None and expected is not None and split.may_have_empty_side(expected)
    needs_scan = labels is None or few or (trains and _needs_counts(spec))
    scans = _scan_together(source, split, world) if needs_scan else []
    scan = merge_scans(scans) if source.is_sharded and scans else next(iter(scans), None)
    if scan is not None:
        labels = labels or _labels(scan, source, spec)
        if split is not None and not scan.fault:
            split.check_sides(source.channel, scan.records, scan.held_out)
    if trains:
        parts |= _split_stream(source, split, expected, scan)
        parts["train"] = replace(parts["train"], class_counts=_class_counts(scan, labels))
        if source.is_sharded:
            counts = tuple(scan.records for scan in scans)
            parts["train"] = replace(parts["train"], total=None, host_counts=counts)
    return labels, parts


def _scan_together(source: StreamSource, split: StreamSplit | None, world: World) -> list[FirstPassScan]:
    """Scan the stream in the first process of every host; return the results of the hosts in all processes.

    Raises:
        DataError: the stream cannot be read, or the hosts received different records.
        JobStopped: the job was stopped.
        ProcessLostError: another process has ended.
    """
    scan: FirstPassScan | None = None
    if not world.local_rank:
        try:
            scan = scan_first_pass(source, split)
        except JobStopped:
            # The other processes wait for the result.
            world.gather_from_hosts(scan)
            raise
    scans = world.gather_from_hosts(scan)
    found = [scan for scan in scans if scan is not None]
    if len(found) < len(scans):
        raise JobStopped
    if not source.is_sharded and any(_contents(scan) != _contents(found[0]) for scan in found):
        counts = ", ".join(str(scan.records + scan.held_out) for scan in found)
        raise DataError(
            f"channel {source.channel!r}: the hosts received different records ({counts}) although the channel is"
            " replicated; check that its objects do not change"
        )
    return found


def merge_scans(scans: Sequence[FirstPassScan]) -> FirstPassScan:
    """Return the scan of the records of all hosts together."""
    classes: Counter[str] = Counter()
    for scan in scans:
        for name, count in scan.classes.items():
            classes[name] += count
    return FirstPassScan(
        sum(scan.records for scan in scans),
        dict(classes),
        sum(scan.held_out for scan in scans),
        next((scan.fault for scan in scans if scan.fault), ""),
        any(scan.has_several for scan in scans),
    )


def _contents(scan: FirstPassScan) -> tuple[object, ...]:
    return scan.records, scan.held_out, tuple(sorted(scan.classes.items()))


def _split_stream(
    source: StreamSource, split: StreamSplit | None, expected: int | None, scan: FirstPassScan | None
) -> dict[str, StreamPart]:
    """The training stream and its held-out share; `expected` counts the records of both."""
    total = expected or (None if scan is None else scan.records + scan.held_out)
    if split is None:
        return {"train": StreamPart(source, total, total=total, is_sharded=source.is_sharded)}
    counted = None if scan is None else scan.records
    estimate = None if total is None else split.remaining(total)
    sides = {
        held_out: StreamShare(source, split, held_out=held_out, may_be_empty=source.is_sharded)
        for held_out in (False, True)
    }
    return {
        "train": StreamPart(sides[False], counted or estimate, total=total, is_sharded=source.is_sharded),
        "validation": StreamPart(sides[True], scan.held_out if scan else None, is_sharded=source.is_sharded),
    }


def _numbered_classes(spec: JobSpec) -> LabelMap | None:
    names = tuple(str(number) for number in range(spec.data.num_classes or 0))
    return LabelMap(names, spec.data.multi_label) if names else None


def _needs_counts(spec: JobSpec) -> bool:
    """Whether the job depends on the number of records, or of records per class, and it is not given."""
    optimization = spec.optimization
    warmup = optimization.warmup_fraction if optimization.warmup_steps is None else optimization.warmup_steps
    by_total = optimization.lr_schedule != "constant" or warmup > 0
    return optimization.class_weights == "balanced" or (by_total and spec.data.num_training_samples is None)


def _labels(scan: FirstPassScan, source: StreamSource, spec: JobSpec) -> LabelMap:
    if not scan.classes and scan.fault:
        raise DataError(f"channel {source.channel!r}: no record can be parsed: {scan.fault}")
    seen = [Record(f"a record of class {name}", b"", (name,)) for name in scan.classes]
    reader = InMemoryReader(source.channel, source.task, seen, [(scan.fault, "")] if scan.fault else ())
    return build_label_map(
        reader,
        multi_label=spec.data.multi_label,
        num_classes=spec.data.num_classes,
        records=scan.records + scan.held_out,
        has_several=scan.has_several,
    )


def _class_counts(scan: FirstPassScan | None, labels: LabelMap | None) -> tuple[int, ...] | None:
    if scan is None or labels is None:
        return None
    counts = dict.fromkeys(labels.names, 0)
    for label, count in scan.classes.items():
        name = labels.resolve(label)
        if name is not None:
            counts[name] += count
    return tuple(counts.values())
