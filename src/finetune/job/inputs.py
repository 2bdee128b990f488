"""From channels to labelled data sets: opened, held against each other, split where nothing is kept for validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.data.labels import LabelMap, check_known, label_map_of
from finetune.data.open_channel import ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.data.split import stratified_split
from finetune.errors import DataError
from finetune.spec.job_spec import DataSpec, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Records of a reader that serve one purpose."""

    reader: Reader
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the channels hold.

    Attributes:
        train: empty where nothing is trained.
        split: whether validation records were taken out of the training channel.
    """

    task: Task
    labels: LabelMap
    train: Part | None
    validation: Part | None
    test: Part | None
    split: bool

    def parts(self) -> dict[str, Part]:
        """The parts that are there, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None and part.indices}


def read_inputs(sources: Mapping[str, ChannelSource], spec: DataSpec, seed: int, known: LabelMap | None) -> Inputs:
    """Open `train`, `validation` and `test`, whichever are there.

    Args:
        sources: channels by their purpose.
        spec: which records, and how they become examples.
        seed: of the split.
        known: the classes of a network that is evaluated as it is; otherwise those of the training channel.

    Raises:
        DataError: records or classes do not fit together.
    """
    readers: dict[str, Reader] = {}
    for name in ("train", "validation", "test"):
        if name in sources:
            readers[name] = open_channel(sources[name], spec)
            spec = replace(spec, task=readers[name].task)
    if not readers:
        raise DataError("There is no channel with records: give a channel 'train'.")
    first = next(iter(readers.values()))
    labels = known or label_map_of(first, multi_label=spec.multi_label, num_classes=spec.num_classes)
    for reader in readers.values():
        check_known(reader, labels)
    parts = {name: Part(reader, tuple(range(len(reader)))) for name, reader in readers.items()}
    splits = "train" in parts and "validation" not in parts and spec.validation_fraction > 0 and known is None
    if splits:
        halves = stratified_split(readers["train"], spec.validation_fraction, seed)
        parts["train"] = Part(readers["train"], halves.train)
        parts["validation"] = Part(readers["train"], halves.validation)
    return Inputs(first.task, labels, parts.get("train"), parts.get("validation"), parts.get("test"), split=splits)


def class_counts(part: Part, labels: LabelMap) -> dict[str, int]:
    """Records of every class, in the order of the labels."""
    counts = dict.fromkeys(labels.names, 0)
    for index in part.indices:
        for name in part.reader.labels(index):
            counts[name] += 1
    return counts


def sources_of(folders: Mapping[str, Path], content_types: Mapping[str, str | None]) -> dict[str, ChannelSource]:
    """Channels with records by their purpose, each with the channel that lists its pictures where there is one."""
    return {
        name: ChannelSource(name, folders[name], folders.get(f"{name}_lst"), content_types.get(name))
        for name in ("train", "validation", "test")
        if name in folders
    }
