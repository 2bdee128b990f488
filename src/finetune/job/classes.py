"""Class names that the request gives before any record is read."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.data.announced_labels import AnnouncedReader, read_label_file
from finetune.data.labels import LabelMap
from finetune.data.readers.channel_files import some_of
from finetune.data.record import Reader
from finetune.errors import UserError
from finetune.job.request import Request

LABELS = "labels"
"""Name of the channel with the file of class names."""


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
