"""Every stream format is decoded into images or texts with their labels."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from finetune.config.content_types import StreamFormat
from finetune.config.hyperparameters import TaskName
from finetune.config.parse import parse_hyperparameters
from finetune.data.formats.codec import StreamLayout, choose_codec
from finetune.data.formats.named_fields import DecodedRecord, DecodeOptions
from finetune.data.framing.window import DamagedStream, Window
from finetune.errors import UserError
from tests.support.stream_writers import example, recordio, split_chunks, tfrecord

FIXTURES = Path(__file__).parent / "fixtures"
PNG = b"\x89PNG\r\n\x1a\n"
TEXT: TaskName = "text-classification"
IMAGE: TaskName = "image-classification"


def decode(
    stream: bytes,
    task: TaskName = IMAGE,
    stream_format: StreamFormat | None = None,
    wrapped: bool = False,
    class_ids: bool = False,
    **hyperparameters: str,
) -> list[DecodedRecord]:
    spec = parse_hyperparameters(hyperparameters).data
    window = Window(split_chunks(stream, [37]))
    codec = choose_codec(
        StreamLayout("channel 'train'", stream_format, wrapped), DecodeOptions(task, spec, class_ids), window
    )
    return [codec.decode(record) for record in codec.split_records(window)]


def labels(records: list[DecodedRecord]) -> list[tuple[str, ...]]:
    return [record.labels for record in records]


def manifest(*lines: tuple[bytes, ...]) -> bytes:
    return b"".join(recordio(attribute) for line in lines for attribute in line)


def test_image_records_are_distinguished_from_attributes_by_their_header() -> None:
    header = struct.pack("<IfQQ", 0, 7.0, 1, 0)
    assert decode(recordio(header + PNG)) == [DecodedRecord(PNG, ("7",))]
    assert decode(manifest((PNG, b"7")), stream_format="recordio") == [DecodedRecord(PNG, ("7",))]


def test_image_record_with_several_labels() -> None:
    flags = struct.pack("<IfQQ3f", 3, 0, 1, 0, 1, 0, 1) + PNG
    numbers = struct.pack("<IfQQ2f", 2, 0, 1, 0, 4, 2) + PNG
    assert labels(decode(recordio(flags) + recordio(numbers), multi_label="true")) == [("0", "2"), ("4", "2")]
    with pytest.raises(ValueError, match="has 3 labels; set multi_label=true"):
        decode(recordio(flags))


@pytest.mark.parametrize(
    ("label", "label_kind", "expected"),
    [
        (b"1", "one", ("1",)),
        (b'"1"', "one", ("1",)),
        (b"cat", "one", ("cat",)),
        (b'"cat"', "one", ("cat",)),
        (b'{"class-name": "cat", "confidence": 0.9}', "one", ("cat",)),
        (b"[1,0,1]", "several", ("0", "2")),
        (b"[0,1]", "ids", ("0", "1")),
        (b"[0,2]", "several", ("0", "2")),
        (b'["cat","dog"]', "several", ("cat", "dog")),
    ],
)
def test_labels_of_augmented_manifests(label: bytes, label_kind: str, expected: tuple[str, ...]) -> None:
    multi_label = "false" if label_kind == "one" else "true"
    records = decode(manifest((PNG, label)), wrapped=True, class_ids=label_kind == "ids", multi_label=multi_label)
    assert records == [DecodedRecord(PNG, expected)]


def test_attributes_are_selected_by_name() -> None:
    metadata = json.dumps({"class-name": "cat", "type": "groundtruth/image-classification"}).encode()
    stream = manifest((b"0", metadata, PNG), (b"0", metadata, PNG))
    records = decode(stream, attribute_names="class,class-metadata,source-ref", image_column="source-ref")
    assert records == [DecodedRecord(PNG, ("cat",))] * 2


def test_text_attributes() -> None:
    stream = manifest((b'"a \\"quoted\\" text"', b"1"), (b"plain text", b"0"))
    records = decode(stream, TEXT, attribute_names="source,label")
    assert records == [DecodedRecord(('a "quoted" text',), ("1",)), DecodedRecord(("plain text",), ("0",))]


def test_wrong_number_of_attributes_raises() -> None:
    with pytest.raises(DamagedStream, match="ends after 2 of 3 attributes"):
        decode(manifest((PNG, b"1")), attribute_names="source-ref,class,other")
    with pytest.raises(ValueError, match=r"has an image .*attribute 'b'.*attribute_names"):
        decode(manifest((PNG, PNG)), attribute_names="a,b")


def test_examples_are_decoded_by_default_or_requested_field_names() -> None:
    stream = (FIXTURES / "tfrecord_example.tfrecord").read_bytes()
    assert labels(decode(stream)) == [("0",), ("1",), ("2",)]
    assert labels(decode(stream, label_column="image/class/text")) == [("cat",), ("dog",), ("cow",)]
    with pytest.raises(ValueError, match=r"has no field 'image/clas'.*did you mean"):
        decode(stream, label_column="image/clas")


def test_tar_shards_are_split_into_samples() -> None:
    webdataset = (FIXTURES / "webdataset.tar").read_bytes()
    records = decode(webdataset + (FIXTURES / "webdataset.tar").read_bytes())
    assert labels(records) == [("0",), ("1",), ("2",)] * 2
    texts = decode((FIXTURES / "bsdtar_unpadded.tar").read_bytes(), IMAGE, image_column="txt")
    assert labels(texts) == [("3",)]


def test_numeric_features_are_not_images() -> None:
    with pytest.raises(ValueError, match="has numbers instead of an encoded image"):
        decode((FIXTURES / "sdk_dense_float32.pbr").read_bytes(), stream_format="protobuf")


def test_concatenated_json_lines_with_byte_order_marks() -> None:
    item = '{"label": "a", "text": "}{ stays\u2028whole"}'
    stream = (f'\ufeff{item}\n{item}\ufeff{{"label": "b", "text": "glued"}}\r\n\n' + item).encode()
    expected = DecodedRecord(("}{ stays\u2028whole",), ("a",))
    assert decode(stream, TEXT) == [expected, expected, DecodedRecord(("glued",), ("b",)), expected]


def test_json_objects_may_lack_optional_keys() -> None:
    """As in files: a later object may start with the second text column, or even the label."""
    rows = [
        {"text": "no label"},
        [1],
        {"label": "a", "premise": "p"},
        {"label": "b", "premise": "q", "hypothesis": "h"},
    ]
    stream = "\n".join(map(json.dumps, rows[2:])).encode()
    assert decode(stream, TEXT) == [DecodedRecord(("p", ""), ("a",)), DecodedRecord(("q", "h"), ("b",))]
    with pytest.raises(ValueError, match="the label is missing"):
        decode("\n".join(map(json.dumps, rows)).encode(), TEXT, "jsonl", text_column="text")


def test_csv_with_and_without_header() -> None:
    table = 'label,text\npos,"two\nlines, ""quoted"""\nlabel,text\nneg,plain\n'
    expected = [DecodedRecord(('two\nlines, "quoted"',), ("pos",)), DecodedRecord(("plain",), ("neg",))]
    assert decode(table.encode(), TEXT, "csv") == expected
    assert decode(b"1;a\n0;b, c\n", TEXT, "csv") == [DecodedRecord(("a",), ("1",)), DecodedRecord(("b, c",), ("0",))]
    assert decode(b'1\tsays "so\n0\t"whole"\n', TEXT, "tsv") == [
        DecodedRecord(('says "so',), ("1",)),
        DecodedRecord(("whole",), ("0",)),
    ]


def test_wrapped_objects_are_unwrapped() -> None:
    stream = recordio(b"1,good\n0,bad") + recordio(b"1,fine")
    assert labels(decode(stream, TEXT, "csv", wrapped=True)) == [("1",), ("0",), ("1",)]


@pytest.mark.parametrize(
    ("stream", "reason"), [(PNG, "images without labels; use an augmented manifest"), (b"PAR1", "contains Parquet")]
)
def test_formats_that_streams_do_not_support_raise(stream: bytes, reason: str) -> None:
    with pytest.raises(DamagedStream, match=reason):
        decode(stream)


def test_ambiguous_columns_raise() -> None:
    with pytest.raises(UserError, match="channel 'train' has 4 columns and no header"):
        decode(b"1,2,3,4\n", TEXT, "csv")


def test_text_instead_of_image_suggests_the_task() -> None:
    with pytest.raises(ValueError, match="has no image, but a text in field 'text'; set task=text-classification"):
        decode(tfrecord(example({"text": b"one", "label": 0})), stream_format="tfrecord")


def test_long_texts_are_accepted() -> None:
    (records,) = decode(b'a,"' + b"cat " * 50_000 + b'"\n', TEXT, "csv")
    assert records.labels == ("a",)


def test_carriage_returns_end_lines() -> None:
    assert labels(decode(b"label,text\ra,cat\rb,dog\r", TEXT, "csv")) == [("a",), ("b",)]


def test_unclosed_quote_raises_with_its_position() -> None:
    with pytest.raises(DamagedStream, match=r"unclosed quotation mark.*\(line 3\)") as raised:
        decode(b'label,text\na,cat\nb,"dog\n', TEXT, "csv")
    assert raised.value.offset == 17


def test_deeply_nested_object_is_a_bad_record() -> None:
    rows = b'{"label": "a", "text": "cat"}\n' + b'{"label": "a", "text": ' + b"[" * 200_000 + b"\n"
    with pytest.raises(ValueError, match="nested too deeply"):
        decode(rows, TEXT, "jsonl")
