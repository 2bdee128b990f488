"""Builds the batches of every part, transformed to the input format of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from finetune.config.hyperparameters import JobSpec
from finetune.data.bad_records import BadRecords
from finetune.data.loading.batches import Batches, BatchOptions, BatchSource
from finetune.data.loading.dataset import Dataset, Subset
from finetune.data.loading.order import batch_bounds
from finetune.data.loading.sampler import balanced_sampler
from finetune.data.pipe.batch_shares import StreamSharing
from finetune.data.pipe.batches import StreamBatches, StreamData, StreamHost
from finetune.data.record import Content, Reader
from finetune.data.transforms.augmentation import AugmentationOptions
from finetune.data.transforms.base import ImageTransform, Transform
from finetune.data.transforms.image import ImageGeometry
from finetune.data.transforms.text import TextTransform, TokenLimits
from finetune.data.transforms.text_augmentation import TextAugmentation
from finetune.distributed.world import World
from finetune.job.data.inputs import Inputs
from finetune.job.data.sharded_channels import host_batch_size, with_host_shard
from finetune.job.data.streams import StreamPart
from finetune.models.backbone import Backbone, ImageInput, ModelInput, TextInput
from finetune.runtime.threads import usable_cores
from finetune.training.saved_state.state import NullState, StreamState
from finetune.training.saved_state.trainable_state import State

PROBE_RECORDS = 4
_MAX_WORKERS = 16
_INITIAL_WORKERS = 2
"""Initial number of worker threads if the CPU also trains."""
_TOKEN_CACHE_BYTES = 1 << 30
"""Cache budget for token ids, which take about as much memory as the texts themselves."""
_EVALUATION_FACTOR = 2
"""Factor by which evaluation batches are larger: no activations are kept for a backward pass."""


class BadRecordCounts(dict[str, BadRecords]):
    """Bad records by channel; two parts of one channel share a ledger."""

    @property
    def unshared(self) -> int:
        """Number of bad records that the other processes of the job do not know."""
        return sum(ledger.unshared for ledger in self.values())

    def share(self, world: World) -> None:
        """Exchange bad records with all processes of the job.

        Raises:
            DataError: more records are bad than allowed.
            ProcessLostError: another process has ended.
        """
        found = world.all_gather({channel: ledger.take_unshared() for channel, ledger in self.items()})
        for channel, ledger in self.items():
            merged = {key: reason for reasons in found for key, reason in reasons[channel].items()}
            ledger.note_shared(dict(sorted(merged.items())))

    def state_dict(self) -> State:
        """Reasons by record, by channel."""
        return {channel: ledger.state_dict() for channel, ledger in self.items()}

    def load_state_dict(self, state: State, /) -> None:
        """Restore the bad records of the channels of this job."""
        for channel, ledger in self.items():
            ledger.load_state_dict(state.get(channel, {}))


@dataclass(frozen=True, slots=True)
class Loaders:
    """Batches by purpose; `None` if there are no records for it.

    Attributes:
        train: training batches.
        validation: validation batches.
        test: test batches.
        probe: records for the export check if no evaluation was finished.
        bad_records: records left out, by channel.
        rebatch: makes evaluation batches of other records of the same kind.
    """

    train: BatchSource | None
    validation: BatchSource | None
    test: BatchSource | None
    probe: Batches | None
    bad_records: BadRecordCounts
    rebatch: Callable[[Reader], Batches] | None = None

    def position(self) -> StreamState:
        """Resumable position in the training stream; a null object without a stream."""
        return self.train.position if isinstance(self.train, StreamBatches) else NullState()

    def compare_evaluated_streams(self, world: World) -> None:
        """Check that all hosts have read the same records of the streams that they evaluate together.

        Raises:
            DataError: they have not.
            ProcessLostError: another process has ended.
        """
        for batches in (self.validation, self.test):
            if world.hosts > 1 and isinstance(batches, StreamBatches):
                batches.position.compare(world.gather_from_hosts(batches.position.mark))

    def wait_seconds(self) -> float:
        """Seconds spent waiting for training and validation batches since the start."""
        return sum(batches.prefetcher.wait_seconds for batches in (self.train, self.validation) if batches is not None)

    def in_memory(self) -> Batches | None:
        """Batches of the few training stream records that are still in memory."""
        if self.rebatch is None or not isinstance(self.train, StreamBatches):
            return None
        return self.rebatch(self.train.retained_records())


def worker_counts(requested: int | None, device: torch.device, cores: int) -> tuple[int, int]:
    """Initial and maximum number of threads that prepare batches; threads are added when batches are late.

    Args:
        requested: number set by the user, which is used for both.
        device: on a GPU job, all cores but one prepare batches from the start; on a CPU job, training needs them.
        cores: number of cores available to this process.
    """
    if requested is not None:
        return requested, requested
    maximum = min(_MAX_WORKERS, cores)
    return (
        (max(1, min(maximum, cores - 1)), maximum)
        if device.type == "cuda"
        else (min(_INITIAL_WORKERS, maximum), maximum)
    )


def build_loaders(
    inputs: Inputs,
    backbone: Backbone,
    spec: JobSpec,
    device: torch.device,
    sharing: Mapping[str, StreamSharing],
    world: World,
) -> Loaders:
    """Build the batches of every part in the model's input format; only training records are augmented.

    Args:
        inputs: the records of all parts.
        backbone: the model.
        spec: the hyperparameters.
        device: device of the model.
        sharing: how the processes of this host share each stream, by purpose.
        world: processes of the job; those on this host share its cores.
    """
    channels = {part.reader.channel for part in inputs.parts().values()}
    channels |= {part.source.channel for part in inputs.streams.values()}
    bad = BadRecordCounts((name, BadRecords(name, spec.data.max_bad_records)) for name in sorted(channels))
    for part in inputs.parts().values():
        for key, reason in part.reader.left_out:
            bad[part.reader.channel].note(key, reason)
    workers, max_workers = worker_counts(spec.run.workers, device, max(1, usable_cores() // world.local_size))

    transform = build_transform(backbone.expects, spec, _TOKEN_CACHE_BYTES)

    is_image = isinstance(transform, ImageTransform)
    augments = spec.data.augmentation != "none" if is_image else spec.recipes.augments_texts

    def options(*, training: bool) -> BatchOptions:
        return BatchOptions(
            batch_size=spec.optimization.batch_size * (1 if training else _EVALUATION_FACTOR),
            seed=spec.run.seed,
            shuffle=training,
            augment=training and augments,
            workers=workers,
            pin_memory=device.type == "cuda",
            max_workers=max_workers,
            length=_length(transform, spec),
        )

    def batches(part: Subset | None, *, training: bool) -> Batches | None:
        if part is None or not part.indices:
            return None
        dataset = Dataset(part.reader, part.indices, inputs.labels, transform)
        host_options = with_host_shard(options(training=training), part, divides=training)
        if training and spec.recipes.sampler == "balanced" and not spec.strategy.never_takes_steps:
            host_options = with_balanced_sampler(host_options, part)
        return Batches(dataset, host_options, bad[part.reader.channel])

    def source(purpose: str, part: Subset | None, *, training: bool) -> BatchSource | None:
        stream = inputs.streams.get(purpose)
        if stream is None:
            return batches(part, training=training)
        stream_transform, buffer = build_transform(backbone.expects, spec), spec.data.shuffle_buffer
        stream_options = options(training=training)
        host: StreamHost | None = None
        if stream.is_sharded:
            host = StreamHost(world.host, world.hosts, _host_batches(stream, stream_options.batch_size, world.hosts))
            if training:
                size = host_batch_size(stream_options.batch_size, world.host, world.hosts)
                stream_options = replace(stream_options, batch_size=size)
        counts, total = stream.class_counts, stream.total
        data = StreamData(stream.source, inputs.labels, stream_transform, stream.count, counts, buffer, total, host)
        return StreamBatches(data, stream_options, bad[stream.source.channel], sharing[purpose])

    def rebatch(reader: Reader) -> Batches:
        dataset = Dataset(reader, tuple(range(len(reader))), inputs.labels, transform)
        return Batches(dataset, options(training=False), bad[reader.channel])

    training = spec.strategy.trains
    probe = inputs.validation or inputs.test or inputs.train
    return Loaders(
        train=source("train", inputs.train, training=training),
        validation=source("validation", inputs.validation, training=False),
        test=source("test", inputs.test, training=False),
        probe=batches(probe, training=False),
        bad_records=bad,
        rebatch=rebatch,
    )


def with_balanced_sampler(options: BatchOptions, part: Subset) -> BatchOptions:
    """Return the options for batches with equally frequent classes, of the records of this host."""
    indices = part.indices if options.host is None else [part.indices[position] for position in options.host.positions]
    return replace(options, sampler=balanced_sampler([part.reader.labels(index) for index in indices]))


def _host_batches(stream: StreamPart, batch_size: int, hosts: int) -> int | None:
    """Batches per epoch of the host that has the most; an estimate if records were not counted."""
    if stream.host_counts:
        sizes = [host_batch_size(batch_size, host, hosts) for host in range(hosts)]
        return max(len(batch_bounds(count, size)) for count, size in zip(stream.host_counts, sizes, strict=True))
    return None if stream.count is None else len(batch_bounds(stream.count, batch_size))


def _length(transform: Transform, spec: JobSpec) -> Callable[[Content], int] | None:
    """The function that measures an example's length, if batches are grouped by length."""
    return transform.length if isinstance(transform, TextTransform) and spec.data.group_by_length else None


def build_transform(expects: ModelInput, spec: JobSpec, token_cache_bytes: int = 0) -> Transform:
    """Build the transform from records to the inputs of a model.

    Args:
        expects: preprocessing of the model.
        spec: hyperparameters of the augmentation of training records.
        token_cache_bytes: approximate size of the cache of texts and their tokens.
    """
    match expects:
        case ImageInput():
            recipes = spec.recipes
            options = AugmentationOptions(recipes.vertical_flip, recipes.blur, recipes.augmentation_strength)
            return ImageTransform(image_geometry(expects), spec.data.augmentation, options)
        case TextInput():
            limits = TokenLimits(expects.vocabulary, expects.token_types, expects.borrowed_padding)
            words = TextAugmentation(spec.recipes.word_deletion, spec.recipes.word_swap)
            return TextTransform(
                expects.tokenizer, expects.max_length, cache_bytes=token_cache_bytes, limits=limits, augmentation=words
            )


def image_geometry(expects: ImageInput) -> ImageGeometry:
    """The image geometry needed for decoding; normalization happens on the device."""
    depth, stretch, floor_crop = expects.sixteen_bit_depth, expects.stretch, expects.floor_crop
    return ImageGeometry(expects.size, expects.resize, expects.interpolation, depth, stretch, floor_crop)
