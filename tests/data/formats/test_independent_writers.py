"""Files written by other software are read exactly; fixtures/README.md says how they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.data.formats.image_records import read_image_record
from finetune.data.formats.protobuf_records import RecordTensor, read_protobuf_record
from finetune.data.formats.tf_example import read_example
from finetune.data.framing.recordio import read_recordio
from finetune.data.framing.tar_members import read_tar
from finetune.data.framing.tfrecord import read_tfrecords
from finetune.data.framing.window import Window
from tests.support.stream_writers import MAGIC, split_chunks

FIXTURES = Path(__file__).parent / "fixtures"
LONG_NAME = "deep/" * 30 + "ünïcode.txt"


def payload(n: int) -> bytes:
    return bytes((n * 31 + k * 7) % 256 for k in range(n * 5))


def window(*names: str, chunk: int = 100) -> Window:
    return Window(split_chunks(b"".join((FIXTURES / name).read_bytes() for name in names), [chunk]))


def test_mxnet_records_with_escaped_magic_words() -> None:
    payloads = [bytes(record) for record in read_recordio(window("mxnet_escaped.rec", chunk=7))]
    expected = [b"", b"a", MAGIC, b"abcd" + MAGIC + b"efgh", b"abc" + MAGIC, MAGIC * 3, payload(20)]
    assert payloads == expected


def test_mxnet_image_records() -> None:
    records = [read_image_record(record) for record in read_recordio(window("mxnet_images.rec"))]
    assert [labels for labels, _ in records] == [(0.0,), (1.0,), (0.0,), (3.0, 0.0, 1.0), (4.0, 0.0, 1.0)]
    assert [bytes(image) for _, image in records] == [b"\x89PNG\r\n\x1a\n" + payload(n) for n in range(5)]


@pytest.mark.parametrize(
    ("name", "labels"), [("sdk_dense_float32.pbr", [0, 1, 2]), ("sdk_dense_float64_int_label.pbr", [0, 1, -2])]
)
def test_dense_records_of_the_sdk(name: str, labels: list[int]) -> None:
    rows = [read_protobuf_record(record) for record in read_recordio(window(name))]
    values, targets = [row.features["values"] for row in rows], [row.labels["values"] for row in rows]
    assert [value.values.tolist() for value in values if isinstance(value, RecordTensor)] == [
        [number / 4 for number in range(begin, begin + 4)] for begin in (0, 4, 8)
    ]
    assert [target.values.tolist() for target in targets if isinstance(target, RecordTensor)] == [[n] for n in labels]


def test_sparse_records_of_the_sdk() -> None:
    rows = [read_protobuf_record(record).features["values"] for record in read_recordio(window("sdk_sparse.pbr"))]
    matrix = np.zeros((3, 3))
    for number, row in enumerate(rows):
        assert isinstance(row, RecordTensor)
        assert row.shape == (3,)
        matrix[number, list(row.keys)] = row.values
    assert matrix.tolist() == [[0, 1.5, 0], [2, 0, 3], [0, 0, 4]]


def test_tensorboard_records() -> None:
    records = [bytes(record) for record in read_tfrecords(window("tensorboard.tfrecord"))]
    assert records == [payload(n * 9) for n in range(4)]


def test_tensorflow_examples() -> None:
    examples = [read_example(record) for record in read_tfrecords(window("tfrecord_example.tfrecord"))]
    assert examples == [
        {
            "image/encoded": (b"\x89PNG" + payload(n),),
            "image/class/label": (n,),
            "image/class/text": ([b"cat", b"dog", b"cow"][n],),
            "scores": (0.5, float(n)),
            "many": (1, -1, 2**40),
        }
        for n in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "has_long_name"),
    [
        ("gnutar_gnu.tar", True),
        ("gnutar_pax.tar", True),
        ("gnutar_ustar.tar", False),
        ("gnutar_v7.tar", False),
        ("bsdtar_pax.tar", True),
    ],
)
def test_concatenated_archives_of_gnu_tar_and_bsdtar(name: str, has_long_name: bool) -> None:
    common_files = [("1.txt", payload(40)), ("1.cls", b"1"), ("2.txt", payload(80)), ("2.cls", b"2")]
    first_files = common_files + ([(LONG_NAME, payload(40))] if has_long_name else [])
    last_files = [("3.txt", payload(120)), ("3.cls", b"3")]
    files = [(path, bytes(content)) for path, content in read_tar(window(name, "bsdtar_unpadded.tar", name, chunk=999))]
    assert files == first_files + last_files + first_files


def test_webdataset_shards() -> None:
    files = {path: bytes(content) for path, content in read_tar(window("webdataset.tar", chunk=513))}
    images = {f"shard/{n:04d}.jpg": b"\xff\xd8" + payload(n + 1) for n in range(3)}
    assert {path: content for path, content in files.items() if path.endswith("jpg")} == images
    assert {files[f"shard/{n:04d}.cls"] for n in range(3)} == {b"0", b"1", b"2"}
