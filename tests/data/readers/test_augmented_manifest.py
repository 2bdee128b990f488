"""Images and classes of an augmented manifest are found next to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.errors import DataError, UserError


def opened(folder: Path, lines: list[dict[str, object]], **knobs: str) -> Reader:
    for key in ("deep/a.png", "b.png"):
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(key.encode())
    (folder / "output.manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_channel(ChannelSource("train", folder), parse_hyperparameters(knobs).data)


def test_the_form_of_ground_truth(tmp_path: Path) -> None:
    reader = opened(
        tmp_path,
        [
            {"source-ref": "s3://bucket/x/deep/a.png", "job": 1, "job-metadata": {"class-name": "dog"}},
            {"source-ref": "s3://bucket/b.png", "job": 0, "job-metadata": {"class-name": "cat"}},
        ],
    )
    assert reader.task == "image-classification"
    assert [(reader.key(at), reader.labels(at)) for at in range(2)] == [("b.png", ("cat",)), ("deep/a.png", ("dog",))]
    assert reader.read(1).content == b"deep/a.png"


def test_several_labels(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"source-ref": "b.png", "class": [1, 0, 1]}]
    assert opened(tmp_path, lines, multi_label="true").labels(0) == ("0", "2")


def test_the_attribute_that_is_named(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"source-ref": "b.png", "first": 1, "second": 2}]
    assert opened(tmp_path, lines, label_column="second").labels(0) == ("2",)
    assert opened(tmp_path, lines, attribute_names="source-ref,second").labels(0) == ("2",)
    with pytest.raises(UserError, match="set label_column to one of 'first', 'second'"):
        opened(tmp_path, lines)
    with pytest.raises(UserError, match=r"no attribute 'secnd' \(did you mean 'second'\?\)"):
        opened(tmp_path, lines, label_column="secnd")


def test_texts_in_the_lines_and_beside_them(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"source": "one", "class": 1}, {"source": "two", "class": 0}]
    reader = opened(tmp_path, lines)
    assert (reader.task, reader.key(1)) == ("text-classification", "output.manifest:2")
    assert [(record.content, record.labels) for record in map(reader.read, range(2))] == [
        (("one",), ("1",)),
        (("two",), ("0",)),
    ]
    lines = [{"source-ref": "s3://bucket/b.png", "class": "x"}]
    assert opened(tmp_path, lines, task="text-classification").read(0).content == ("b.png",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"class": 1}, "has no attribute 'source-ref'"),
        ({"source-ref": "s3://bucket/../../etc/passwd", "class": 1}, "has no such file"),
        ({"source-ref": "b.png", "class": {"boxes": []}}, "without a class name as its label"),
        ({"source-ref": "b.png", "class": None}, "the label is missing"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        opened(tmp_path, [line])
    assert str(caught.value).startswith("channel 'train': output.manifest, line 1")


def test_a_picture_named_twice_and_a_line_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: 'b\.png' is already listed in output\.manifest, line 1"):
        opened(tmp_path, [{"source-ref": "b.png", "class": 1}] * 2)
    (tmp_path / "output.manifest").write_text("{not json}\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        open_channel(ChannelSource("train", tmp_path), parse_hyperparameters({}).data)


FAILED: dict[str, object] = {
    "source-ref": "b.png",
    "class-metadata": {"failure-reason": "ClientError: too large", "job-name": "x"},
}
GOOD: dict[str, object] = {"source-ref": "s3://bucket/deep/a.png", "class": 1, "class-metadata": {"class-name": "dog"}}


@pytest.mark.parametrize(
    "knobs", [{}, {"label_column": "class"}, {"attribute_names": "source-ref,class,class-metadata"}]
)
def test_an_object_that_ground_truth_failed_to_label_is_a_bad_record(tmp_path: Path, knobs: dict[str, str]) -> None:
    with pytest.raises(
        DataError, match=r"line 2 has no label \(failure-reason: ClientError: too large\).*max_bad_records=0"
    ):
        opened(tmp_path, [GOOD, FAILED], **knobs)
    reader = opened(tmp_path, [GOOD, FAILED], max_bad_records="1", **knobs)
    assert [reader.labels(at) for at in range(len(reader))] == [("dog",)]
    ((where, reason),) = reader.left_out
    assert where == "output.manifest, line 2"
    assert "failure-reason" in reason


def test_failed_objects_among_texts_are_bad_records(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"source": "one", "class": 1},
        {"source": "two", "class-metadata": {"failure-reason": "timeout"}},
    ]
    reader = opened(tmp_path, lines, max_bad_records="1")
    assert len(reader) == 1
    assert len(reader.left_out) == 1


def test_missing_objects_and_broken_lines_count_as_bad_records(tmp_path: Path) -> None:
    gone: dict[str, object] = {"source-ref": "gone.png", "class": 1}
    reader = opened(tmp_path, [GOOD, gone], max_bad_records="1")
    assert len(reader) == 1
    assert "no such file" in reader.left_out[0][1]


def test_an_image_in_two_manifests_names_both_places(tmp_path: Path) -> None:
    (tmp_path / "first.manifest").write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(
        DataError, match=r"output\.manifest, line 1: 'deep/a\.png' is already listed in first\.manifest, line 1"
    ):
        opened(tmp_path, [GOOD])


def test_a_name_in_another_unicode_form_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a\u0308.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"'a\u0308\.png', which looks the same: .* decomposed .* composed"):
        opened(tmp_path, [{"source-ref": "\u00e4.png", "class": 1}])


@pytest.mark.parametrize("line", ["[" * 100_000, '{"source-ref": "b.png", "class": ' + "[" * 100_000])
def test_a_line_that_is_nested_too_deeply_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "b.png").write_bytes(b"picture")
    (tmp_path / "output.manifest").write_text(line)
    with pytest.raises(DataError, match=r"output\.manifest, line 1 is not JSON: .*nested too deeply"):
        open_channel(ChannelSource("train", tmp_path), parse_hyperparameters({}).data)
