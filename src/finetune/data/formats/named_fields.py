"""Selects the image or text fields and the label field of a record by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune.config.hyperparameters import DataSpec, TaskName
from finetune.data.label_parsing import label_names
from finetune.data.readers.channel_files import some_of
from finetune.data.record import Content
from finetune.data.tables.columns import LABEL_COLUMNS, TEXT_COLUMNS, SharedColumns
from finetune.data.tables.reader import parse_texts
from finetune.data.transforms.image_formats import IMAGE_ENDINGS
from finetune.errors import did_you_mean

IMAGE_FIELDS = (
    *("image/encoded", "image", "image_raw", "picture", "jpg", "jpeg", "png", "webp", "bmp"),
    *sorted(ending[1:] for ending in IMAGE_ENDINGS - {".jpg", ".jpeg", ".png", ".webp", ".bmp"}),
    *("input.jpg", "input.png", "image_bytes", "values"),
)
LABEL_FIELDS = ("image/class/label", "cls", "cls.txt", *LABEL_COLUMNS, "image/class/text", "values")
TEXT_FIELDS = ("txt", *TEXT_COLUMNS)

RawRecord = tuple[memoryview, ...]
"""The undecoded parts of a record, such as one payload or one per attribute."""


@dataclass(frozen=True, slots=True)
class DecodedRecord:
    """A record of a stream with its content still encoded.

    Attributes:
        content: an encoded image, or one or two texts.
        labels: class names, or class numbers as text.
    """

    content: Content
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Fields to extract from the records of a channel.

    Attributes:
        task: determines whether the content is an image or text.
        spec: data hyperparameters, including the field names set by the user.
        class_ids: whether a list label contains class numbers, for augmented manifests.
        shared: table columns of other channels.
    """

    task: TaskName
    spec: DataSpec
    class_ids: bool = False
    shared: SharedColumns = field(default_factory=SharedColumns)

    @property
    def images(self) -> bool:
        """Whether the content is an image."""
        return self.task == "image-classification"


def select_fields(
    fields: Mapping[str, object],
    labels: Mapping[str, object],
    options: DecodeOptions,
    classes: tuple[str, ...] | None = None,
) -> DecodedRecord:
    """Select content and labels from fields whose values are bytes or valid labels.

    Args:
        fields: fields to search for the image or the texts.
        labels: fields to search for the label; often the same mapping.
        options: settings of the user.
        classes: class names of the record, if known without a label field.

    Raises:
        ValueError: if a field is missing or malformed.
    """
    spec = options.spec
    if classes is None:
        name = _choose_field(labels, spec.label_column, LABEL_FIELDS, "label_column")
        classes = label_names(_as_label(labels[name]), multi_label=spec.multi_label, class_names=spec.class_names)
    if not options.images:
        names = [_choose_field(fields, spec.text_column, TEXT_FIELDS, "text_column")]
        if spec.text_pair_column:
            names.append(_choose_field(fields, spec.text_pair_column, (), "text_pair_column"))
        return DecodedRecord(parse_texts([_as_text(fields[name]) for name in names]), classes)
    text = next((name for name in TEXT_FIELDS if name in fields), None)
    if text is not None and spec.image_column is None and not any(name in fields for name in IMAGE_FIELDS):
        raise ValueError(
            f"has no image, but a text in field {text!r}; set task=text-classification, or set image_column to the"
            " field of the image"
        )
    content = fields[_choose_field(fields, spec.image_column, IMAGE_FIELDS, "image_column")]
    if isinstance(content, tuple) and len(content) == 1:
        content = content[0]
    if not isinstance(content, bytes | memoryview):
        raise ValueError("has numbers instead of an encoded image; store the bytes of an image file in the field")
    return DecodedRecord(bytes(content), classes)


def _choose_field(
    fields: Mapping[str, object], requested: str | None, defaults: Sequence[str], hyperparameter: str
) -> str:
    if requested is not None:
        if requested not in fields:
            raise ValueError(
                f"has no field {requested!r}{did_you_mean(requested, fields)}, the value of {hyperparameter}; its"
                f" fields are {_field_list(fields)}"
            )
        return requested
    name = next((name for name in defaults if name in fields), None)
    if name is None:
        raise ValueError(
            f"has no field with a default name; set {hyperparameter} to one of its fields: {_field_list(fields)}"
        )
    return name


def _field_list(fields: Mapping[str, object]) -> str:
    return some_of([repr(name) for name in fields], 8) or "none"


def _as_text(value: object) -> object:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    return bytes(value).decode("utf-8") if isinstance(value, bytes | memoryview) else value


def _as_label(value: object) -> object:
    if isinstance(value, tuple | list):
        texts = [_as_text(item) for item in value]
        return texts[0] if len(texts) == 1 else texts
    return _as_text(value)
