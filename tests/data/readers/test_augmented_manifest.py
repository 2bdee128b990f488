"""Images and classes of an augmented manifest are found next to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.errors import DataError, UserError


def open_manifest(folder: Path, lines: list[dict[str, object]], **hyperparameters: str) -> Reader:
    for key in ("deep/a.png", "b.png"):
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(key.encode())
    (folder / "output.manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_channel(ChannelSource("train", folder), parse_hyperparameters(hyperparameters).data)


def test_ground_truth_manifest(tmp_path: Path) -> None:
    reader = open_manifest(
        tmp_path,
        [
            {"source-ref": "s3://bucket/x/deep/a.png", "job": 1, "job-metadata": {"class-name": "dog"}},
            {"source-ref": "s3://bucket/b.png", "job": 0, "job-metadata": {"class-name": "cat"}},
        ],
    )
    assert reader.task == "image-classification"
    assert [(reader.key(index), reader.labels(index)) for index in range(2)] == [
        ("b.png", ("cat",)),
        ("deep/a.png", ("dog",)),
    ]
    assert reader.read(1).content == b"deep/a.png"


def test_several_labels_per_image(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"source-ref": "b.png", "class": [1, 0, 1]}]
    assert open_manifest(tmp_path, lines, multi_label="true").labels(0) == ("0", "2")


def test_label_attribute_can_be_requested(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"source-ref": "b.png", "first": 1, "second": 2}]
    assert open_manifest(tmp_path, lines, label_column="second").labels(0) == ("2",)
    assert open_manifest(tmp_path, lines, attribute_names="source-ref,second").labels(0) == ("2",)
    with pytest.raises(UserError, match="set label_column to one of 'first', 'second'"):
        open_manifest(tmp_path, lines)
    with pytest.raises(UserError, match=r"no attribute 'secnd' \(did you mean 'second'\?\)"):
        open_manifest(tmp_path, lines, label_column="secnd")


def test_texts_are_read_from_lines_and_from_files(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"source": "one", "class": 1}, {"source": "two", "class": 0}]
    reader = open_manifest(tmp_path, lines)
    assert (reader.task, reader.key(1)) == ("text-classification", "output.manifest:2")
    assert [(record.content, record.labels) for record in map(reader.read, range(2))] == [
        (("one",), ("1",)),
        (("two",), ("0",)),
    ]
    lines = [{"source-ref": "s3://bucket/b.png", "class": "x"}]
    assert open_manifest(tmp_path, lines, task="text-classification").read(0).content == ("b.png",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"class": 1}, "has no attribute 'source-ref'"),
        ({"source-ref": "s3://bucket/../../etc/passwd", "class": 1}, "has no such file"),
        ({"source-ref": "b.png", "class": {"boxes": []}}, "without a class name as its label"),
        ({"source-ref": "b.png", "class": None}, "the label is missing"),
    ],
)
def test_unusable_lines_raise(tmp_path: Path, line: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as raised:
        open_manifest(tmp_path, [line])
    assert str(raised.value).startswith("channel 'train': output.manifest, line 1")


def test_repeated_image_and_invalid_json_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: 'b\.png' is already listed in output\.manifest, line 1"):
        open_manifest(tmp_path, [{"source-ref": "b.png", "class": 1}] * 2)
    (tmp_path / "output.manifest").write_text("{not json}\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        open_channel(ChannelSource("train", tmp_path), parse_hyperparameters({}).data)


FAILED: dict[str, object] = {
    "source-ref": "b.png",
    "class-metadata": {"failure-reason": "ClientError: too large", "job-name": "x"},
}
GOOD: dict[str, object] = {"source-ref": "s3://bucket/deep/a.png", "class": 1, "class-metadata": {"class-name": "dog"}}


@pytest.mark.parametrize(
    "hyperparameters", [{}, {"label_column": "class"}, {"attribute_names": "source-ref,class,class-metadata"}]
)
def test_object_that_ground_truth_failed_to_label_is_a_bad_record(
    tmp_path: Path, hyperparameters: dict[str, str]
) -> None:
    with pytest.raises(
        DataError, match=r"line 2 has no label \(failure-reason: ClientError: too large\).*max_bad_records=0"
    ):
        open_manifest(tmp_path, [GOOD, FAILED], **hyperparameters)
    reader = open_manifest(tmp_path, [GOOD, FAILED], max_bad_records="1", **hyperparameters)
    assert [reader.labels(index) for index in range(len(reader))] == [("dog",)]
    ((where, reason),) = reader.left_out
    assert where == "output.manifest, line 2"
    assert "failure-reason" in reason


def test_unlabeled_texts_are_bad_records(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"source": "one", "class": 1},
        {"source": "two", "class-metadata": {"failure-reason": "timeout"}},
    ]
    reader = open_manifest(tmp_path, lines, max_bad_records="1")
    assert len(reader) == 1
    assert len(reader.left_out) == 1


def test_missing_objects_and_malformed_lines_count_as_bad_records(tmp_path: Path) -> None:
    missing: dict[str, object] = {"source-ref": "gone.png", "class": 1}
    reader = open_manifest(tmp_path, [GOOD, missing], max_bad_records="1")
    assert len(reader) == 1
    assert "no such file" in reader.left_out[0][1]


def test_image_in_two_manifests_names_both_lines(tmp_path: Path) -> None:
    (tmp_path / "first.manifest").write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(
        DataError, match=r"output\.manifest, line 1: 'deep/a\.png' is already listed in first\.manifest, line 1"
    ):
        open_manifest(tmp_path, [GOOD])


def test_name_in_another_unicode_form_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a\u0308.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"'a\u0308\.png', which looks the same: .* decomposed .* composed"):
        open_manifest(tmp_path, [{"source-ref": "\u00e4.png", "class": 1}])


@pytest.mark.parametrize("line", ["[" * 100_000, '{"source-ref": "b.png", "class": ' + "[" * 100_000])
def test_deeply_nested_line_raises(tmp_path: Path, line: str) -> None:
    (tmp_path / "b.png").write_bytes(b"picture")
    (tmp_path / "output.manifest").write_text(line)
    with pytest.raises(DataError, match=r"output\.manifest, line 1 is not JSON: .*nested too deeply"):
        open_channel(ChannelSource("train", tmp_path), parse_hyperparameters({}).data)
