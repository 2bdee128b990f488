"""Label map: the classes and their indices."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from finetune.data.class_names import check_class_names, is_number, suggest_name
from finetune.data.readers.channel_files import some_of
from finetune.data.record import Reader
from finetune.errors import DataError, UserError

_log = logging.getLogger(__name__)

Origin = Literal["records", "network", "announced"]
"""Source of the list of classes: training records, the model (if evaluated unchanged), or the request."""

_ORIGINS: Mapping[Origin, tuple[str, str]] = {
    "records": (
        "training data",
        "Add training records of these classes, or remove or rename the classes in this channel",
    ),
    "network": ("model", "Remove or rename these classes, or train with another strategy"),
    "announced": ("request", "Add them to class_names or to the file of the 'labels' channel, or remove them"),
}
MAX_CLASSES = 100_000
"""Maximum number of classes; if there are more, the label is assumed to be an ID of each record."""

_INTEGER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class LabelMap:
    """The classes, in the order of the model outputs.

    Attributes:
        names: unique class names; the position is the class index.
        multi_label: whether a record may belong to any number of classes, including none.
    """

    names: tuple[str, ...]
    multi_label: bool
    _indices: dict[str, int] = field(init=False, repr=False, compare=False)
    _has_numeric_names: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the names.

        Raises:
            DataError: there are more than `MAX_CLASSES`.
        """
        if len(self.names) > MAX_CLASSES:
            raise DataError(too_many_classes_message(self.names))
        object.__setattr__(self, "_indices", {name: index for index, name in enumerate(self.names)})
        object.__setattr__(self, "_has_numeric_names", any(is_number(name) for name in self.names))

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.names)

    def resolve(self, label: str) -> str | None:
        """Return the class with this name, or with this index if no class name is a number; `None` if unknown."""
        if label in self._indices:
            return label
        if label.isdecimal() and int(label) < len(self.names) and not self._has_numeric_names:
            return self.names[int(label)]
        return None

    def target(self, labels: tuple[str, ...]) -> int | list[int]:
        """Return the class index, or with `multi_label` a multi-hot list with a 0 or 1 for every class.

        Raises:
            DataError: a class is unknown, or a single-label record does not have exactly one class.
        """
        indices = [self._index(name) for name in labels]
        if not self.multi_label:
            if len(indices) != 1:
                raise DataError(f"a record has {len(indices)} classes instead of one; set multi_label=true for several")
            return indices[0]
        multi_hot = [0] * len(self.names)
        for index in indices:
            multi_hot[index] = 1
        return multi_hot

    def targets(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        """Return the targets of several records: int64 `[records]`, or float32 `[records, classes]` with `multi_label`.

        Raises:
            DataError: as in `target`.
        """
        values = [self.target(record_labels) for record_labels in labels]
        if self.multi_label:
            return torch.tensor(values, dtype=torch.float32).reshape(len(values), len(self.names))
        return torch.tensor(values, dtype=torch.int64)

    def _index(self, name: str) -> int:
        try:
            return self._indices[name]
        except KeyError:
            raise DataError(f"unknown class {name!r}{suggest_name(name, self.names)}") from None


def build_label_map(
    reader: Reader,
    *,
    multi_label: bool,
    num_classes: int | None,
    records: int | None = None,
    has_several: bool | None = None,
) -> LabelMap:
    """Build the label map of a channel: in numerical order if all classes are integers, else in lexicographic order.

    If `num_classes` exceeds the number of classes found and every class is an integer from 0 to `num_classes - 1`, the
    classes without records are added, so that the outputs keep the numbers of the data.

    Args:
        reader: reader with all labels.
        multi_label: whether a record may have several classes.
        num_classes: expected number of classes.
        records: number of records of the channel, if different from the reader's.
        has_several: whether any record has several classes, if not known from the reader.

    Raises:
        DataError: the channel has fewer than two classes.
        UserError: the number of classes of the channel differs from `num_classes`.
    """
    labels_per_record = [reader.labels(index) for index in range(len(reader))]
    names = _sorted_names({name for labels in labels_per_record for name in labels})
    if len(names) < 2:
        raise DataError(_too_few_classes_message(names, reader))
    check_class_names(
        reader.channel,
        names,
        records=len(reader) if records is None else records,
        multi_label=multi_label,
        has_several=any(len(labels) > 1 for labels in labels_per_record) if has_several is None else has_several,
    )
    if num_classes is not None:
        names = _fit_to_num_classes(names, num_classes, reader.channel)
    return LabelMap(names, multi_label)


def check_known_classes(reader: Reader, label_map: LabelMap, origin: Origin = "records") -> None:
    """Check that the label map contains every class of a channel.

    Args:
        reader: reader of the channel.
        label_map: the known classes.
        origin: source of the known classes.

    Raises:
        DataError: the channel has unknown classes; the message names them and some of their records.
    """
    known = frozenset(label_map.names)
    unknown: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for index in range(len(reader)):
        for name in reader.labels(index):
            if name not in known:
                unknown[name] += 1
                examples.setdefault(name, reader.key(index))
    if unknown:
        listed = [
            f"{some_of([repr(name)])}{suggest_name(name, label_map.names)} in {count} records such as {examples[name]}"
            for name, count in unknown.most_common(3)
        ]
        owner, advice = _ORIGINS[origin]
        raise DataError(
            f"channel {reader.channel!r} has {len(unknown)} classes that are missing from the {owner}: "
            f"{'; '.join(listed)}{'; ...' if len(unknown) > len(listed) else ''}. {advice}"
        )


def _sorted_names(names: Collection[str]) -> tuple[str, ...]:
    if all(_INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _fit_to_num_classes(names: tuple[str, ...], num_classes: int, channel: str) -> tuple[str, ...]:
    if len(names) > num_classes:
        raise UserError(
            f"num_classes={num_classes}, but channel {channel!r} has {len(names)} classes ({some_of(names)}); "
            "correct num_classes, omit it, or remove the records of the other classes"
        )
    all_numbers = tuple(str(number) for number in range(num_classes))
    if set(names) <= set(all_numbers):
        return all_numbers
    if len(names) < num_classes:
        raise UserError(
            f"num_classes={num_classes}, but channel {channel!r} has {len(names)} classes ({some_of(names)}); classes"
            f" without records are possible only if all names are numbers from 0 to {num_classes - 1}: correct"
            " num_classes, omit it, list all classes in class_names, or add the missing records"
        )
    return names


def too_many_classes_message(names: Collection[str]) -> str:
    """Return the message for more than `MAX_CLASSES` classes, with a probable cause."""
    examples = some_of(map(repr, itertools.islice(names, 3)))
    return (
        f"there are at least {len(names):,} classes, such as {examples}, but at most {MAX_CLASSES:,} are supported; if"
        " the label is an ID of each record, set label_column to another column"
    )


def _too_few_classes_message(names: tuple[str, ...], reader: Reader) -> str:
    summary = f"only one class, {some_of([repr(names[0])])}," if names else "no classes"
    if reader.task == "image-classification":
        hint = "images must be in one folder per class, directly below the channel" + _folders_below(reader)
    else:
        hint = "check that label_column names the right column"
    if reader.left_out:
        key, reason = reader.left_out[0]
        hint += f". Unusable records are not counted, such as {key}{': ' if reason else ''}{reason}"
    return f"channel {reader.channel!r} has {summary} but at least two are required; {hint}"


def _folders_below(reader: Reader) -> str:
    """Describe the folders in the only class folder of a channel, which may be the true classes."""
    paths = [reader.key(index).split("/") for index in range(len(reader))]
    levels = range(1, min(map(len, paths), default=0))
    depth = next((level for level in levels if len({path[level] for path in paths}) > 1), 0)
    subfolders = sorted({path[depth] for path in paths if len(path) > depth + 1}) if depth else []
    if len(subfolders) < 2:
        return ""
    folder = "/".join(paths[0][:depth])
    return (
        f"; folder {folder!r} contains the folders {some_of(map(repr, subfolders))}: if these are the classes, set the"
        f" channel to .../{folder}"
    )
