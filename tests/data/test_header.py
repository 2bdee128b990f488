"""Headers that are there or not, by their names or by what follows them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune.data.channel_files import list_files
from finetune.data.header import find_header
from finetune.data.streams.codec import StreamLayout, choose_codec
from finetune.data.streams.named_fields import Wanted
from finetune.data.streams.window import Window
from finetune.data.text_table import read_text_tables
from labelled_data import data_spec, write_files

SENTENCES = ("it was a fine evening", "nothing of it works, sadly", "would buy it again", "the worst of all")


@pytest.mark.parametrize(
    ("row", "spec", "expected"),
    [
        ("label,text", {}, True),
        ("Label,whatever", {}, True),
        ("intent,utterance", {}, True),
        ("0,some text", {}, False),
        ("question,where is it?", {}, False),
        ("y,yes", {}, False),
        ("stars,words", {"label_column": "stars"}, True),
        ("stars,words", {"label_column": "star"}, True),
        ("5,words", {"label_column": "0", "text_column": "1"}, False),
        ("label,text", {"header": "false"}, False),
        ("0,words", {"header": "true"}, True),
    ],
)
def test_a_header_is_seen(row: str, spec: dict[str, object], expected: bool) -> None:
    assert find_header(row.split(","), [], data_spec(**spec)).is_there is expected


def table(first: str, labels: Sequence[str], texts: Sequence[str] = SENTENCES, count: int = 12) -> list[list[str]]:
    rows = [[labels[at % len(labels)], texts[at % len(texts)]] for at in range(count)]
    return [first.split(","), *rows]


HEADERS = [
    ("stars,words", ["1", "5", "3"], {}, "no other row has the label 'stars', the other labels are numbers"),
    ("topic,utterance", ["a", "b"], {}, "it has a usual name of a column"),
    ("category,Words used", ["a", "b"], {}, "the other texts are no such words, it has a usual name of a column"),
    ("kind,words", ["a", "b"], {"class_names": ("a", "b")}, "class_names lacks it"),
]


@pytest.mark.parametrize(("first", "labels", "spec", "reason"), HEADERS)
def test_a_header_of_unusual_names_is_told_by_what_follows(
    first: str, labels: list[str], spec: dict[str, object], reason: str
) -> None:
    rows = table(first, labels)
    header = find_header(rows[0], rows[1:], data_spec(**spec))
    assert header.is_there
    assert not header.chooses
    assert "set header=false if it is a record" in header.remark.replace("Set", "set")
    assert reason in header.remark


RARE = [
    ("spam,hello", ["a", "b"], SENTENCES, True),
    ("unknown,rating", ["1", "2"], ("fine", "well", "poor"), True),
    ("target,corner shop", ["mall", "kiosk"], ("big mall", "tiny kiosk"), True),
    ("spam,hello", ["a", "b"], ("fine", "well", "poor"), True),
    ("spam,buy our pills now and save", ["a", "b"], SENTENCES, False),
    ("7,hello", ["1", "2"], SENTENCES, False),
    ("a,hello", ["a", "b"], SENTENCES, False),
    ("spam,hello!", ["a", "b"], SENTENCES, False),
]


@pytest.mark.parametrize(("first", "labels", "texts", "doubtful"), RARE)
def test_a_rare_class_in_the_first_row_stays_a_record(
    first: str, labels: list[str], texts: tuple[str, ...], doubtful: bool
) -> None:
    rows = table(first, labels, texts)
    header = find_header(rows[0], rows[1:], data_spec())
    assert not header.is_there
    assert bool(header.remark) is doubtful
    if doubtful:
        assert f"the first row ({rows[0][0]!r}, {rows[0][1]!r}) is taken for a record" in header.remark
        assert "Set header=true, and label_column" in header.remark
        assert "header=false if it is a record" in header.remark


def test_where_every_row_has_a_class_of_its_own_nothing_is_doubted() -> None:
    rows = table("spam,hello", [f"class {number}" for number in range(30)], ("fine", "well"), 30)
    assert find_header(rows[0], rows[1:], data_spec()) == (False, False, "")


def test_rows_are_read_only_until_the_label_comes_again() -> None:
    rows = iter([["b", "fine"], ["a", "well"], ["c", "poor"]])
    assert not find_header(["a", "hello"], rows, data_spec()).is_there
    assert next(rows) == ["c", "poor"]


def written(rows: list[list[str]]) -> bytes:
    return "".join(f'{label},"{text}"\n' for label, text in rows).encode()


@pytest.mark.parametrize(
    ("first", "is_header"), [("stars,words", True), ("spam,hello", False)], ids=["header", "rare class"]
)
def test_files_and_streams_decide_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str, is_header: bool
) -> None:
    content = written(table(first, ["1", "2"] if is_header else ["a", "b"]))
    write_files(tmp_path, {"t.csv": content})
    with caplog.at_level(logging.WARNING):
        reader = read_text_tables(list_files("train", tmp_path), data_spec())
    assert "channel 'train', t.csv: the first row" in caplog.text
    told: list[str] = []
    window = Window([content])
    layout = StreamLayout("channel 'train'", "csv", warn=told.append)
    codec = choose_codec(layout, Wanted("text-classification", data_spec()), window)
    piped = [codec.decode(sample) for sample in codec.cut(window)]
    assert len(told) == 1
    assert [one.labels for one in piped] == [reader.labels(index) for index in range(len(reader))]
    assert [one.content for one in piped] == [reader.read(index).content for index in range(len(reader))]
    assert len(reader) == (12 if is_header else 13)
