"""Where data and models meet: what a network expects becomes the transform of every batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from finetune.config.hyperparameters import JobSpec
from finetune.data.bad_records import BadRecords
from finetune.data.loading.batches import Batches, BatchOptions, BatchSource
from finetune.data.loading.dataset import Dataset, Part
from finetune.data.pipe.batches import StreamBatches, StreamData
from finetune.data.record import Content, Reader
from finetune.data.transforms.base import ImageTransform, Transform
from finetune.data.transforms.image import ImageGeometry
from finetune.data.transforms.text import TextTransform, TokenLimits
from finetune.job.inputs import Inputs
from finetune.models.backbone import Backbone, ImageInput
from finetune.training.state import Nothing, Stateful
from finetune.training.trainable_state import State

PROBE_RECORDS = 4
_MOST_WORKERS = 16
_FIRST_WORKERS = 2
"""Threads with which a CPU that also trains begins."""
_KEPT_BYTES = 1 << 30
"""For tokens of texts, which are as much again as the texts themselves."""
_EVALUATION_FACTOR = 2
"""An evaluation keeps no activations for a backward pass, so its batches may be larger."""


class Ledgers(dict[str, BadRecords]):
    """Bad records by the channel that they lie in; two parts of one channel share a ledger."""

    def state_dict(self) -> State:
        """Reasons by record, by channel."""
        return {channel: ledger.state_dict() for channel, ledger in self.items()}

    def load_state_dict(self, state: State, /) -> None:
        """Take up what is known of the channels that are there."""
        for channel, ledger in self.items():
            ledger.load_state_dict(state.get(channel, {}))


@dataclass(frozen=True, slots=True)
class Loaders:
    """Batches by purpose; `None` where there are no records for it.

    Attributes:
        probe: records to prove an artifact by that no evaluation was finished for.
        bad_records: what had to be left out of which channel.
        rebatch: makes batches for evaluation of other records of the same kind.
    """

    train: BatchSource | None
    validation: BatchSource | None
    test: BatchSource | None
    probe: Batches | None
    bad_records: Ledgers
    rebatch: Callable[[Reader], Batches] | None = None

    def position(self) -> Stateful:
        """What a restarted job needs to know of the training stream, where there is one."""
        return self.train.position if isinstance(self.train, StreamBatches) else Nothing()

    def waited(self) -> float:
        """Seconds for which batches of training and validation were waited for, since the start."""
        return sum(batches.supply.waited for batches in (self.train, self.validation) if batches is not None)

    def kept(self) -> Batches | None:
        """The few records of the training stream that are still there."""
        if self.rebatch is None or not isinstance(self.train, StreamBatches):
            return None
        return self.rebatch(self.train.kept())


def threads(asked: int | None, device: torch.device, cores: int) -> tuple[int, int]:
    """Threads that prepare batches, and how many that may become where batches are late.

    Args:
        asked: the user's number, which is kept to.
        device: beside a GPU all cores but one prepare from the start; a CPU that trains has better to do at first.
        cores: that this process may use.
    """
    if asked is not None:
        return asked, asked
    most = min(_MOST_WORKERS, cores)
    return (max(1, min(most, cores - 1)), most) if device.type == "cuda" else (min(_FIRST_WORKERS, most), most)


def build_loaders(inputs: Inputs, backbone: Backbone, spec: JobSpec, device: torch.device) -> Loaders:
    """Batches of every part, transformed to what the network expects; only training records are augmented."""
    channels = {part.reader.channel for part in inputs.parts().values()}
    channels |= {part.source.channel for part in inputs.streams.values()}
    bad = Ledgers((name, BadRecords(name, spec.data.max_bad_records)) for name in sorted(channels))
    for part in inputs.parts().values():
        for key, reason in part.reader.left_out:
            bad[part.reader.channel].note(key, reason)
    workers, most_workers = threads(spec.run.workers, device, len(os.sched_getaffinity(0)))

    transform = _transform(backbone, spec, _KEPT_BYTES)

    def options(*, training: bool) -> BatchOptions:
        return BatchOptions(
            batch_size=spec.optimisation.batch_size * (1 if training else _EVALUATION_FACTOR),
            seed=spec.run.seed,
            shuffle=training,
            augment=training and spec.data.augmentation != "none",
            workers=workers,
            pin_memory=device.type == "cuda",
            most_workers=most_workers,
            length=_length(transform, spec),
        )

    def batches(part: Part | None, *, training: bool) -> Batches | None:
        if part is None or not part.indices:
            return None
        dataset = Dataset(part.reader, part.indices, inputs.labels, transform)
        return Batches(dataset, options(training=training), bad[part.reader.channel])

    def source(purpose: str, part: Part | None, *, training: bool) -> BatchSource | None:
        stream = inputs.streams.get(purpose)
        if stream is None:
            return batches(part, training=training)
        passing, buffer = _transform(backbone, spec), spec.data.shuffle_buffer
        data = StreamData(
            stream.source, inputs.labels, passing, stream.count, stream.class_counts, buffer, stream.total
        )
        return StreamBatches(data, options(training=training), bad[stream.source.channel])

    def rebatch(reader: Reader) -> Batches:
        dataset = Dataset(reader, tuple(range(len(reader))), inputs.labels, transform)
        return Batches(dataset, options(training=False), bad[reader.channel])

    training = spec.strategy.name != "evaluate"
    probed = inputs.validation or inputs.test or inputs.train
    return Loaders(
        train=source("train", inputs.train, training=training),
        validation=source("validation", inputs.validation, training=False),
        test=source("test", inputs.test, training=False),
        probe=batches(probed, training=False),
        bad_records=bad,
        rebatch=rebatch,
    )


def _length(transform: Transform, spec: JobSpec) -> Callable[[Content], int] | None:
    """What tells how long an example is, where batches of like length are wanted."""
    return transform.length if isinstance(transform, TextTransform) and spec.data.group_by_length else None


def _transform(backbone: Backbone, spec: JobSpec, kept_bytes: int = 0) -> Transform:
    expects = backbone.expects
    if isinstance(expects, ImageInput):
        return ImageTransform(geometry_of(expects), spec.data.augmentation)
    limits = TokenLimits(expects.vocabulary, expects.token_types, expects.borrowed_padding)
    return TextTransform(expects.tokenizer, expects.max_length, kept_bytes=kept_bytes, limits=limits)


def geometry_of(expects: ImageInput) -> ImageGeometry:
    """The part of a network's input that decoding has to know; normalization happens on the device."""
    depth, stretch, floor_crop = expects.sixteen_bit_depth, expects.stretch, expects.floor_crop
    return ImageGeometry(expects.size, expects.resize, expects.interpolation, depth, stretch, floor_crop)
