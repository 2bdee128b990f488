"""Codecs for records in RecordIO and TFRecord streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from finetune.data.formats.attribute_labels import attribute_classes
from finetune.data.formats.image_records import is_encoded_image, read_image_record
from finetune.data.formats.named_fields import DecodedRecord, DecodeOptions, RawRecord, select_fields
from finetune.data.formats.protobuf_records import RecordTensor, Value, read_protobuf_record
from finetune.data.formats.protobuf_wire import DamagedMessage
from finetune.data.formats.tf_example import read_example
from finetune.data.framing.recordio import MAGIC_BYTES, read_recordio
from finetune.data.framing.tfrecord import read_tfrecords
from finetune.data.framing.window import MAX_RECORD_BYTES, DamagedStream, Window
from finetune.data.json_text import parse_json
from finetune.data.label_parsing import label_name
from finetune.data.tables.reader import parse_texts


def _single_payloads(payloads: Iterator[memoryview]) -> Iterator[RawRecord]:
    """Yield each payload as a record of its own."""
    for payload in payloads:
        yield (payload,)


class ImageRecordCodec:
    """Codec for MXNet image records."""

    def __init__(self, options: DecodeOptions) -> None:
        self._options = options

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield one payload per record."""
        return _single_payloads(read_recordio(window, self._options.spec.recordio_parts))

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Decode numeric labels; several labels are a row of 0/1 flags, or else class numbers."""
        numbers, image = read_image_record(record[0])
        multi_label = self._options.spec.multi_label
        if not multi_label and len(numbers) != 1:
            raise ValueError(f"has {len(numbers)} labels; set multi_label=true if records have several classes")
        if multi_label and len(numbers) > 1 and set(numbers) <= {0.0, 1.0} and not self._options.class_ids:
            return DecodedRecord(bytes(image), tuple(str(index) for index, flag in enumerate(numbers) if flag))
        names = [label_name(number) for number in numbers]
        if None in names:
            raise ValueError("has a label that is not a number")
        return DecodedRecord(bytes(image), tuple(name for name in names if name is not None))


class AttributeCodec:
    """Codec for augmented manifests: each attribute of a line is a separate record, in the order of the names."""

    def __init__(self, options: DecodeOptions) -> None:
        """Assign roles to the attributes; without attribute names, expect an image or text, then a label."""
        self._options = options
        names = options.spec.attribute_names or ("source-ref" if options.images else "source", "label")
        self._names = names
        self._metadata = next((index for index, name in enumerate(names) if name.endswith("-metadata")), None)
        content = options.spec.image_column if options.images else options.spec.text_column
        self._content = names.index(content) if content in names else 0
        candidates = [index for index in range(len(names)) if index not in (self._content, self._metadata)]
        label = options.spec.label_column
        self._label = names.index(label) if label in names else (candidates[0] if candidates else None)

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield one payload per attribute for each record."""
        count, start = len(self._names), window.offset
        attributes: list[memoryview] = []
        size = 0
        for payload in read_recordio(window, self._options.spec.recordio_parts):
            attributes.append(payload)
            size += len(payload)
            if size > MAX_RECORD_BYTES:
                raise DamagedStream(f"has attributes of more than {MAX_RECORD_BYTES:,} bytes in one record", start)
            if len(attributes) == count:
                yield tuple(attributes)
                attributes, size, start = [], 0, window.offset
        if attributes:
            raise DamagedStream(
                f"ends after {len(attributes)} of {count} attributes ({', '.join(self._names)}); check attribute_names",
                start,
            )

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Return the encoded image or the text, and the classes from the JSON label."""
        if self._label is None:
            raise ValueError(f"has no label attribute; add it to attribute_names ({', '.join(self._names)})")
        label = record[self._label]
        if is_encoded_image(label):
            raise ValueError(
                f"has an image instead of a label in attribute {self._names[self._label]!r}; check the order of"
                " attribute_names"
            )
        metadata = None if self._metadata is None else record[self._metadata]
        spec = self._options.spec
        classes = attribute_classes(
            label,
            metadata,
            multi_label=spec.multi_label,
            class_ids=self._options.class_ids,
            class_names=spec.class_names,
        )
        content = bytes(record[self._content])
        return DecodedRecord(content if self._options.images else parse_texts([_parse_json_text(content)]), classes)


class ExampleCodec:
    """Codec for TFRecords of `tf.train.Example`."""

    def __init__(self, options: DecodeOptions) -> None:
        self._options = options

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield one payload per record."""
        return _single_payloads(read_tfrecords(window))

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Select the features by the names that the user sets, or else by the usual names."""
        features = read_example(record[0])
        return select_fields(features, features, self._options)


class ProtobufCodec:
    """Codec for SageMaker's protocol buffer records in RecordIO."""

    def __init__(self, options: DecodeOptions) -> None:
        self._options = options

    def split_records(self, window: Window) -> Iterator[RawRecord]:
        """Yield one payload per record."""
        return _single_payloads(read_recordio(window, self._options.spec.recordio_parts))

    def decode(self, record: RawRecord) -> DecodedRecord:
        """Use a bytes feature as the image or the text.

        SageMaker's own readers join the parts of a record without the magic word. If a record that contains the magic
        word cannot be parsed, it is parsed again without it.
        """
        try:
            message = read_protobuf_record(record[0])
        except DamagedMessage:
            payload = bytes(record[0])
            if MAGIC_BYTES not in payload:
                raise
            message = read_protobuf_record(memoryview(payload.replace(MAGIC_BYTES, b"")))
        # Numeric features of image records are not used.
        features = message.features if self._options.images else _as_lists(message.features)
        return select_fields(features, _as_lists(message.labels), self._options)


def _as_lists(fields: Mapping[str, Value]) -> Mapping[str, object]:
    return {name: value.values.tolist() if isinstance(value, RecordTensor) else value for name, value in fields.items()}


def _parse_json_text(content: bytes) -> str:
    text = content.decode("utf-8")
    if text.startswith('"'):
        value = parse_json(text)
        return value if isinstance(value, str) else text
    return text
