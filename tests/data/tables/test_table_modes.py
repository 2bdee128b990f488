"""Every kind of table gives the same records, bad rows and errors in File and Pipe mode."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config.content_types import StreamFormat
from tests.support.table_modes import Outcome, from_file, from_stream

TEXTS = {
    "neg": ("it was bad, really", "nothing of it works", "the worst of all", "never again, I fear"),
    "pos": ("it was a fine evening", "works very well", "the best of all", "would buy it again, gladly"),
}
PAIRS = [(label, f"{text} {number}") for number in range(4) for label, texts in TEXTS.items() for text in texts]


def table(
    delimiter: str = ",", header: str = "", rows: Sequence[tuple[str, ...]] | None = None, end: str = "\n"
) -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(PAIRS if rows is None else rows)
    return (f"{header}{end}" * bool(header) + file.getvalue()).encode()


def text_first() -> list[tuple[str, ...]]:
    return [(text, label) for label, text in PAIRS]


def cycling_labels(names: list[str]) -> list[tuple[str, ...]]:
    """Cycling labels, each with a different text."""
    return [(names[number % len(names)], f"some words of text {number}") for number in range(12)]


RECORDS = [{"label": label, "text": text} for label, text in PAIRS]


@dataclass(frozen=True)
class Case:
    """A table and the expected result in both modes.

    Attributes:
        content: bytes of the file or stream.
        table_format: file extension or content type.
        classes: of the records; empty if the table is rejected.
        rows: number of records.
        bad: number of unusable rows.
        error: part of the error message if the table is rejected.
        spec: hyperparameters.
    """

    content: bytes
    table_format: StreamFormat = "csv"
    classes: tuple[str, ...] = ("neg", "pos")
    rows: int = len(PAIRS)
    bad: int = 0
    error: str = ""
    spec: dict[str, object] = field(default_factory=dict)


def rejected(content: bytes, error: str, table_format: StreamFormat = "csv", **spec: object) -> Case:
    return Case(content, table_format, (), 0, 0, error, spec)


CASES: dict[str, Case] = {
    # Headers
    "usual names": Case(table(header="label,text")),
    "usual names, text first": Case(table(header="text,label", rows=text_first())),
    "unusual names above sentences": Case(table(header="library,docstring")),
    "unusual names, text first": Case(table(header="docstring,library", rows=text_first())),
    "names with spaces and capitals": Case(table(header="Product Name, Customer complaint")),
    "unnamed pandas index": Case(
        table(header=",text,label", rows=[(str(index), text, label) for index, (label, text) in enumerate(PAIRS)])
    ),
    "named pandas index": Case(
        table(
            header="Unnamed: 0,text,label",
            rows=[(str(index), text, label) for index, (label, text) in enumerate(PAIRS)],
        )
    ),
    "usual label among unusual texts": rejected(
        table(header="title,abstract,category", rows=[(f"Title {text}", text, label) for label, text in PAIRS]),
        "set text_column",
    ),
    "long names": rejected(
        table(header="Product category (main),Customer complaint narrative (free text)"), "a header or a record"
    ),
    "questions as names": rejected(
        table(
            header="Timestamp,How do you feel?,What did you like most about it?",
            rows=[(f"2020-01-{index:02d}", label, text) for index, (label, text) in enumerate(PAIRS)],
        ),
        "a header or a record",
    ),
    "names with signs": rejected(
        table(
            header="Quality,#1 ID,#1 String",
            rows=[(str(index % 2), str(index), text) for index, (_, text) in enumerate(PAIRS)],
        ),
        "a header or a record",
    ),
    "several categories": rejected(
        table(header="genre,year,plot", rows=[(label, str(2000 + len(text) % 3), text) for label, text in PAIRS]),
        "set label_column to one of: 'genre' (2 different values in 32 rows), 'year'",
    ),
    "two usual labels": rejected(
        table(header="category,sentiment,text", rows=[(label, label, text) for label, text in PAIRS]),
        "more than one column could be the label",
    ),
    "ambiguous short words": rejected(
        table(header="spam,hello", rows=[*cycling_labels(["a", "b"])[:3], ("b", "fine"), ("a", "poor"), ("b", "well")]),
        "line 1 ('spam', 'hello') is a header or a record",
    ),
    "ambiguous short words, header=true": Case(
        table(header="spam,hello", rows=cycling_labels(["neg", "pos"])[:3]),
        rows=3,
        spec={"header": "true", "label_column": "spam", "text_column": "hello"},
    ),
    "ambiguous short words, header=false": Case(
        table(header="spam,hello", rows=cycling_labels(["neg", "pos"])[:3]),
        classes=("neg", "pos", "spam"),
        rows=4,
        spec={"header": "false"},
    ),
    "text equal to a column name": Case(table(rows=[*PAIRS, ("neg", "text")]), rows=33),
    "header twice": Case(table(header="label,text") + table(header="label,text"), rows=64),
    "header twice, different quoting": Case(table(header="label,text") + table(header='"label","text"'), rows=64),
    "header twice, unusual names": Case(table(header="library,docstring") * 2, rows=64),
    "header after records": Case(table() + table(header="label,text"), rows=64, bad=1),
    "usual names, header=false": Case(table(header="label,text"), bad=1, spec={"header": "false"}),
    "rows of delimiters only": Case(table(header="label,text") + b",\n , \n"),
    "spaces before quotation marks": Case(table(header="label,text") + b'neg, "a, b"\n', bad=1),
    "header twice, different order": Case(
        table(header="label,text") + table(header="text,label", rows=PAIRS), rows=64, bad=1
    ),
    # No header
    "no header": Case(table()),
    "no header, number as label": Case(
        table(rows=[(str(int(label == "pos")), text) for label, text in PAIRS]), classes=("0", "1")
    ),
    "no header, text first": rejected(table(rows=text_first()), "column 0 has 32 different values in 32 rows"),
    "no header, index first": rejected(
        table(rows=[(str(index), label, text) for index, (label, text) in enumerate(PAIRS)]),
        "set label_column and text_column",
    ),
    "no header, columns by number": Case(
        table(rows=text_first()), spec={"label_column": "1", "text_column": "0"}
    ),
    "no header, four columns": rejected(b"1,2,3,4\n2,2,3,4\n", "has 4 columns and no header"),
    "columns of a header by number": Case(
        table(header="docstring,library", rows=text_first()), spec={"label_column": "1", "text_column": "0"}
    ),
    # Delimiters
    "semicolons": Case(table(";", "label;text")),
    "semicolons, a comma in each text": Case("".join(f"{label};so, {text}\n" for label, text in PAIRS).encode()),
    "vertical bars": Case(table("|", "label|text")),
    "tabs in CSV": Case(table("\t", "label\ttext")),
    "tabs": Case(table("\t", "label\ttext"), "tsv"),
    "commas in TSV": Case(table(header="label,text"), "tsv"),
    "tabs and unclosed quotes": Case(b'label\ttext\nneg\t5" disk\npos\t"so\n' * 1, "tsv", rows=2),
    "tabs and quoted line breaks": Case(b'label\ttext\nneg\t"one\ttwo"\npos\t"three\nfour"\n', "tsv", rows=2),
    "ambiguous delimiters": rejected(
        "".join(f"{label};x{index},{text[:5]}\n" for index, (label, text) in enumerate(PAIRS)).encode(),
        "delimiter is ambiguous: ','"),
    "delimiter declared in first line": Case(
        b"sep=;\r\n" + "".join(f"{label};x,{text}\r\n" for label, text in PAIRS).encode()
    ),
    "trailing delimiters in records": Case(b"label,text\n" + b"neg,bad one,\npos,good one,\n" * 4, rows=8),
    "trailing delimiters in all lines": Case(b"label,text,\n" + b"neg,bad one,\npos,good one,\n" * 4, rows=8),
    "two delimiters, one with plausible labels": Case(
        "".join(f"{label},http://x.y/{index}?a=b;c={index}\n" for index, (label, _) in enumerate(PAIRS)).encode()
    ),
    "JSON Lines as CSV": rejected("".join(json.dumps(record) + "\n" for record in RECORDS).encode(), "contains JSON"),
    "a JSON array as CSV": rejected(json.dumps(RECORDS, indent=1).encode(), "contains JSON"),
    "Markdown table": rejected(b"| label | text |\n|---|---|\n| a | x |\n| b | y |\n", "is a Markdown table"),
    "one column": rejected(b"just a text\nand another\n", "no delimiter"),
    "comment as line 1": rejected(b"# exported\n" + table(header="label,text"), "line 1 ('# exported') has 1 columns"),
    "trailing comment line": Case(table(header="label,text") + b"# the end, at last, today\n", bad=1),
    "ragged rows": Case(table(header="label,text") + b"neg,one,two\nneg\n", bad=2),
    # Quotation, line ends, encodings
    "quoted delimiters, quotes and line breaks": Case(b'label,text\nneg,"a, ""b""\nc"\npos,"d\r\ne"\n', rows=2),
    "stray quote": Case(table(header="label,text") + b'neg,"ends" early\npos,fine\n', rows=33, bad=1),
    "quote opened too early": Case(table(header="label,text") + b'neg,"a\npos,b\nneg,"c"\n', rows=34, bad=1),
    "quote inside a field": Case(table(header="label,text") + b'neg,5" disk\npos,7" disk\n', rows=34),
    "unclosed quote": rejected(table(header="label,text") + b'neg,"never\npos,ends\n', "unclosed quot"),
    "blank lines": Case(b"\n\nlabel,text\n\n" + table() + b"\n  \n"),
    "CRLF line ends": Case(table(header="label,text", end="\r\n")),
    "CR line ends": Case(table(header="label,text", end="\r")),
    "CR line ends, tabs": Case(table("\t", header="label\ttext", end="\r"), "tsv"),
    "a bare carriage return": Case(table(header="label,text") + b"neg,one\rtwo\n", bad=1),
    "byte order mark": Case(b"\xef\xbb\xbf" + table(header="label,text")),
    "byte order marks in two parts": Case((b"\xef\xbb\xbf" + table(header="label,text")) * 2, rows=64),
    "UTF-16": rejected(table(header="label,text").decode().encode("utf-16"), "is not UTF-8"),
    "ZIP archive": rejected(b"PK\x03\x04" + bytes(60), "is a zip archive or a spreadsheet"),
    "HTML": rejected(b"<!DOCTYPE html><html>", "is an HTML or XML page"),
    # Label lines
    "label lines": Case("".join(f"__label__{label} {text}\n" for label, text in PAIRS).encode()),
    "label lines with tabs": Case("".join(f"__label__{label}\t{text}\n" for label, text in PAIRS).encode(), "tsv"),
    "label lines without label": Case(
        "".join(f"__label__{label} {text}\n" for label, text in PAIRS).encode() + b"no label\n", bad=1
    ),
    "label lines with two labels": Case(
        b"__label__neg __label__pos so so\n__label__pos good , nice\n", classes=("pos",), rows=1, bad=1
    ),
    "label lines with two labels, multi_label": Case(
        b"__label__neg __label__pos so so\n__label__pos good , nice\n", rows=2, spec={"multi_label": True}
    ),
    # Labels
    "missing labels among numbers": Case(
        table(header="label,text", rows=[*cycling_labels(["0.0", "1.0"]), ("nan", "x y"), ("", "z z")]),
        classes=("0", "1"),
        rows=12, bad=2,
    ),
    "words that mean missing labels": Case(
        table(header="label,text", rows=[*PAIRS, *((word, "x y") for word in ("NA", "None", "NULL", "NaN", "n/a"))]),
        bad=5,
    ),
    "class named NA": Case(
        table(header="label,text", rows=cycling_labels(["NA", "EU"])), classes=("EU", "NA"), rows=12,
        spec={"class_names": ("EU", "NA")},
    ),
    "Booleans": Case(
        table(header="label,text", rows=cycling_labels(["True", "False"])), classes=("False", "True"), rows=12
    ),
    "labels and texts swapped": rejected(
        table(header="text,label", rows=PAIRS), "column 'label' does not look like labels: it has"
    ),
    "multiple labels per row, no header": Case(
        b"neg|pos,so so\npos|neg,this and that\n" * 3, rows=6, spec={"multi_label": True}
    ),
    "multiple labels": Case(table(header="label,text", rows=[("neg|pos", "so so"), ("", "what"), ("pos", "fine")]),
        rows=3, spec={"multi_label": True}),
    # JSON
    "JSON Lines": Case("".join(json.dumps(record) + "\n" for record in RECORDS).encode(), "jsonl"),
    "concatenated JSON objects": Case("".join(map(json.dumps, RECORDS)).encode(), "jsonl"),
    "a JSON array": Case(json.dumps(RECORDS).encode(), "jsonl"),
    "a JSON array on several lines": Case(json.dumps(RECORDS, indent=2).encode(), "jsonl"),
    "a JSON array, an object per line": Case(
        ("[" + ",\n".join(map(json.dumps, RECORDS)) + "]\n").encode(), "jsonl"
    ),
    "two JSON arrays": Case(json.dumps(RECORDS, indent=1).encode() * 2, "jsonl", rows=64),
    "JSON objects on several lines": Case(
        "\n".join(json.dumps(record, indent=2) for record in RECORDS).encode(), "jsonl"
    ),
    "a JSON array with other values": Case(json.dumps([*RECORDS, 7, "x"]).encode(), "jsonl", bad=2),
    "truncated JSON array": Case(json.dumps(RECORDS, indent=1).encode()[:-20], "jsonl", rows=31, bad=1),
    "JSON object of columns": rejected(
        json.dumps({"label": {"0": "a"}, "text": {"0": "x"}}).encode(), "single JSON object that contains all", "jsonl"
    ),
    "JSON object with a list of records": rejected(
        json.dumps({"version": 1, "data": RECORDS}, indent=1).encode(), "single JSON object that contains all", "jsonl"
    ),
    "JSON labels by null, NaN and words": Case(
        "".join(
            json.dumps({"label": record, "text": "x y"}) + "\n" for record in ("a", "b", None, float("nan"), "nan")
        ).encode(),
        "jsonl", classes=("a", "b"), rows=2, bad=3,
    ),
    "JSON keys by content": Case(
        "".join(json.dumps({"kind": label, "words": text}) + "\n" for label, text in PAIRS).encode(), "jsonl"
    ),
    "JSON Booleans": Case(
        "".join(json.dumps({"label": index % 2 == 0, "text": "x y"}) + "\n" for index in range(4)).encode(), "jsonl",
        classes=("False", "True"), rows=4,
    ),
    "invalid JSON": Case(b'{"label": "neg", "text": "x"}\n{"label"\n[1]\n', "jsonl", classes=("neg",), rows=1, bad=2),
}  # fmt: skip


def read_in_both_modes(root: Path, case: Case) -> tuple[Outcome, Outcome]:
    return from_file(root, case.content, case.table_format, **case.spec), from_stream(
        case.content, case.table_format, **case.spec
    )


@pytest.mark.parametrize("name", CASES)
def test_file_and_pipe_mode_read_same_records(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    for outcome in read_in_both_modes(tmp_path, case):
        if case.error:
            assert case.error in outcome.refusal
        else:
            assert not outcome.refusal
            assert (sorted(outcome.classes), len(outcome.records), outcome.bad) == (
                list(case.classes),
                case.rows,
                case.bad,
            )
    file, stream = read_in_both_modes(tmp_path, case)
    assert file.records == stream.records


LABELS = st.sampled_from(["a", "b", "nan", "", "1", "1.0"])
ROWS = st.lists(st.tuples(LABELS, st.text(st.sampled_from("ab ,;|\t\"'\r\n#é"), max_size=8)), max_size=20)


WRITERS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t", "|"]),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    }
)


@settings(max_examples=200)
@given(ROWS, WRITERS, st.sampled_from(["", "label,text", "a,b"]), st.binary(max_size=6))
def test_random_tables_are_read_equally_in_both_modes(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    writer: dict[str, Any],
    header: str,
    tail: bytes,
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, **writer).writerows([tuple(header.split(",")), *rows] if header else rows)
    content = file.getvalue().encode() + tail
    root = tmp_path_factory.mktemp("table")
    forms: tuple[StreamFormat, ...] = ("csv", "tsv")
    for table_format in forms:
        file_outcome, stream_outcome = (
            from_file(root / table_format, content, table_format),
            from_stream(content, table_format),
        )
        assert bool(file_outcome.refusal) == bool(stream_outcome.refusal) or not stream_outcome.records
        if not file_outcome.refusal:
            assert (file_outcome.records, file_outcome.bad) == (stream_outcome.records, stream_outcome.bad)


def test_repeated_headers_are_skipped_with_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = table(header="label,text") * 3
    expected = "skipped repeated headers on lines 34, 67"
    assert len(from_file(tmp_path, content, "csv").records) == 96
    assert f"channel 'train', table.csv: {expected}" in caplog.text
    assert from_stream(content, "csv").warnings == (f"channel 'train': {expected}",)


def test_spellings_merged_into_one_class_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = table(header="label,text", rows=cycling_labels(["e\u0301", "\u00e9", " b", "b"]))
    assert from_file(tmp_path, content, "csv").classes == {"\u00e9", "b"}
    assert "labels 'e\\u0301' and '\u00e9' are one class" in caplog.text
    assert "labels ' b' and 'b' are one class" in caplog.text
    assert sum("are one class" in warning for warning in from_stream(content, "csv").warnings) == 2


def test_header_detected_on_weak_evidence_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = table(header="kind,words", rows=cycling_labels(["a", "b"]))
    assert len(from_file(tmp_path, content, "csv").records) == 12
    assert "line 1 ('kind', 'words') is read as the header; set header=false if it is a record" in caplog.text
    assert len(from_stream(content, "csv").warnings) == 1


def test_header_read_as_record_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outcome = from_file(tmp_path, table(header="label,words"), "csv", header="false")
    assert outcome.classes == {"label", "neg", "pos"}
    assert "line 1 ('label', 'words') looks like a header; read as a record (header=false)" in caplog.text


def test_compressed_tables_are_decompressed_before_inspection(tmp_path: Path) -> None:
    outcome = from_file(tmp_path, gzip.compress(table(header="label,text")), "csv")
    assert len(outcome.records) == len(PAIRS)
