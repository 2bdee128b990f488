"""Text tables in every format give the same records; unusable rows are handled."""

from __future__ import annotations

import gzip
import json
import logging
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.readers.channel_files import list_files
from finetune.data.record import Record
from finetune.data.tables.columns import SharedColumns
from finetune.data.tables.reader import TextTableReader, read_text_tables
from finetune.errors import DataError, UserError
from tests.support.labelled_data import data_spec, write_files


def read_tables(
    root: Path, files: dict[str, bytes], default_format: str | None = None, **spec: object
) -> TextTableReader:
    return read_text_tables(list_files("train", write_files(root, files)), data_spec(**spec), default_format)


def read_records(reader: TextTableReader) -> list[Record]:
    return [reader.read(index) for index in range(len(reader))]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20).filter(
    lambda text: text.strip() != ""
)


@given(st.lists(st.tuples(st.integers(0, 5), texts), min_size=1, max_size=20))
def test_every_format_gives_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]]
) -> None:
    frame = pd.DataFrame({"text": [text for _, text in rows], "label": [label for label, _ in rows]})
    root = tmp_path_factory.mktemp("table")
    frame.to_csv(root / "csv.csv", index=False)
    frame.to_csv(root / "tsv.tsv", index=False, sep="\t")
    frame.to_parquet(root / "parquet.parquet")
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for label, text in rows)
    (root / "json.jsonl").write_text(lines, encoding="utf-8")
    all_records = read_records(read_tables(root, {}))
    expected = [((text,), (str(label),)) for label, text in rows]
    for ending in ("csv", "tsv", "parquet", "jsonl"):
        assert [
            (record.content, record.labels) for record in all_records if record.key.partition(":")[0].endswith(ending)
        ] == expected


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_compressed_tables(tmp_path: Path, ending: str) -> None:
    tab = "\t" if ending == "tsv" else ","
    rows = b'{"label": "a", "text": "x"}\n' if ending == "jsonl" else f"label{tab}text\na{tab}x\n".encode()
    content = gzip.compress(rows)
    key = f"t.{ending}.gz"
    assert [record.content for record in read_records(read_tables(tmp_path / "whole", {key: content}))] == [("x",)]
    with pytest.raises(DataError, match=rf"{key} is damaged or truncated gzip"):
        read_tables(tmp_path / "cut", {key: content[:-4]})
    with pytest.raises(DataError, match=r"byte 0xff at offset 0, line 1"):
        read_tables(tmp_path / "utf16", {key: gzip.compress(b"\xff\xfe")})


def test_keys_name_file_and_line(tmp_path: Path) -> None:
    parquet = pa.BufferOutputStream()
    pq.write_table(pa.table({"label": ["e"], "text": ["5"]}), parquet)
    reader = read_tables(
        tmp_path,
        {
            "b/1.csv": b'label,text\na,"1\n1"\nb,2\n',
            "a.jsonl": b'\n{"label": "c", "text": "3"}\n',
            "c.parquet": parquet.getvalue().to_pybytes(),
        },
    )
    assert reader.task == "text-classification"
    assert [reader.key(index) for index in range(4)] == ["a.jsonl:2", "b/1.csv:2", "b/1.csv:4", "c.parquet:1"]
    assert reader.read(1) == Record("b/1.csv:2", ("1\n1",), ("a",))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 0], ["1", "0"]),
        ([1.0, 2.5], ["1", "2.5"]),
        ([True, False], ["True", "False"]),
        ([Decimal("1.00"), Decimal("2.50")], ["1", "2.50"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    ],
)
def test_parquet_labels_are_named_by_value(tmp_path: Path, values: object, names: list[str]) -> None:
    pq.write_table(pa.table({"label": values, "text": ["x", "y"]}), tmp_path / "a.parquet")
    assert [record.labels for record in read_records(read_tables(tmp_path, {}))] == [(name,) for name in names]


def test_several_labels_in_every_format(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [["b", "a"], []], "text": ["1", "2"]}), tmp_path / "a.parquet")
    files = {
        "b.csv": b"label,text\na|b,3\n,4\n",
        "c.jsonl": b'{"label": ["a", "b"], "text": "5"}\n{"label": [], "text": "6"}\n',
    }
    assert [record.labels for record in read_records(read_tables(tmp_path, files, multi_label=True))] == [
        ("a", "b"),
        (),
    ] * 3


@pytest.mark.parametrize("flags", ["[true, false, true]", "[false]", "[1, 0, 1]", "[0.0, 0.0]", '"[true, false]"'])
def test_class_flags_are_rejected_as_labels(tmp_path: Path, flags: str) -> None:
    files = {"a.jsonl": f'{{"label": {flags}, "text": "x"}}\n'.encode()}
    with pytest.raises(DataError, match=r"a\.jsonl:1: its labels are one flag per class; list the names"):
        read_tables(tmp_path, files, multi_label=True)


@pytest.mark.parametrize(
    ("labels", "names"), [("[0, 1]", ("0", "1")), ("[1]", ("1",)), ("true", ("True",)), ('["a", "a"]', ("a",))]
)
def test_names_and_numbers_are_classes(tmp_path: Path, labels: str, names: tuple[str, ...]) -> None:
    files = {"a.jsonl": f'{{"label": {labels}, "text": "x"}}\n'.encode()}
    assert read_records(read_tables(tmp_path, files, multi_label=True))[0].labels == names


def test_one_text_of_a_pair_may_be_empty(tmp_path: Path) -> None:
    files = {"a.jsonl": b'{"premise": "p", "hypothesis": null, "label": 0}\n'}
    assert read_records(read_tables(tmp_path, files))[0].content == ("p", "")


ROWS_THAT_CANNOT_BE_USED = [
    ("a.csv", b"label,text\na,fine\n,no label\n", "a.csv:3: the label is missing"),
    ("a.csv", b'label,text\na,fine\nb,"  "\n', "a.csv:3: the text is empty"),
    ("a.csv", b"label,text\na,fine\na,one, two\n", "a.csv:3: it has 3 columns instead of 2; quote texts"),
    ("a.csv", b"label,text\na,fine\na\n", "a.csv:3: it has 1 columns instead of 2"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": 1, "text"\n', "a.jsonl:2: it is not JSON (Expecting ':'"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n[1]\n', "a.jsonl:2: it is not a JSON object"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"text": "y"}\n', "a.jsonl:2: the label is missing"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": 1}\n', "a.jsonl:2: the text is empty"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": [1], "text": "y"}\n', "set multi_label=true"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": 1, "text": ["y"]}\n', "a.jsonl:2: the text is a list"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": 1, "text": "\\ud800"}\n', "unpaired surrogate"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": 1, "text": NaN}\n', "a.jsonl:2: the text is empty"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": 1, "text": -Infinity}\n', "the text is an infinite number"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": Infinity, "text": "x"}\n', "the label is an infinite number"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n' + b"[" * 200_000 + b"\n", "a.jsonl:2: it is not JSON"),
    ("a.jsonl", b'{"label": 1, "text": "x"}\n{"label": ' + b"9" * 5000 + b"}\n", "a.jsonl:2: it is not JSON"),
]


@pytest.mark.parametrize(("key", "content", "fault"), ROWS_THAT_CANNOT_BE_USED)
def test_unusable_row_is_reported_or_skipped(tmp_path: Path, key: str, content: bytes, fault: str) -> None:
    with pytest.raises(DataError, match="channel 'train': 1 rows cannot be used: ") as caught:
        read_tables(tmp_path, {key: content})
    assert fault in str(caught.value)
    assert "max_bad_records (currently 0)" in str(caught.value)
    reader = read_tables(tmp_path, {key: content}, max_bad_records=1)
    assert len(reader) == 1
    assert fault in ": ".join(reader.left_out[0])


def test_only_first_faults_are_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"9 rows cannot be used: a\.csv:3: .*a\.csv:6: [^;]*; and 5 more") as caught:
        read_tables(tmp_path, {"a.csv": b"label,text\na,fine\n" + b",no label\n" * 9}, max_bad_records=8)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"", b"label,text\n", b"\n\n"])
def test_tables_without_rows_are_rejected(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="'train': its tables have no rows"):
        read_tables(tmp_path, {"a.csv": content})


def test_json_array_is_read(tmp_path: Path) -> None:
    reader = read_tables(tmp_path, {"a.json": b'[{"label": 1, "text": "x"},\n {"label": 2,\n "text": "y"}]'})
    assert read_records(reader) == [Record("a.json:1", ("x",), ("1",)), Record("a.json:2", ("y",), ("2",))]


@pytest.mark.parametrize("content", [b"no parquet", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_invalid_parquet_file_is_reported(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"channel 'train', a\.parquet cannot be read as Parquet"):
        read_tables(tmp_path, {"a.parquet": content})


def test_parquet_file_with_damaged_page_is_reported(tmp_path: Path) -> None:
    table = pa.table(
        {"label": [str(index % 2) for index in range(5000)], "text": [f"t{index}" for index in range(5000)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", compression="snappy")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet after row 0"):
        read_tables(tmp_path, {"a.parquet": bytes(content)})


def test_parquet_texts_must_be_utf8(tmp_path: Path) -> None:
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"b"], pa.binary()).buffers())
    pq.write_table(pa.table({"label": ["1", "2"], "text": texts}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet after row 0: 'utf-8' codec"):
        read_tables(tmp_path, {})


def test_dotted_names_are_columns_and_nested_values_are_not_texts(tmp_path: Path) -> None:
    table = {"meta.label": ["1", "2"], "text": ["x", "y"], "meta": [{"label": 1}, {"label": 2}]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    reader = read_tables(tmp_path, {}, label_column="meta.label")
    assert [record.labels for record in read_records(reader)] == [("1",), ("2",)]
    with pytest.raises(DataError, match=r"a\.parquet:1: the text is a dict"):
        read_tables(tmp_path, {}, label_column="meta.label", text_column="meta")


def test_files_must_agree_on_the_number_of_texts(tmp_path: Path) -> None:
    files = {"a.csv": b"label,text\na,x\n", "b.csv": b"label,sentence1,sentence2\na,x,y\n"}
    with pytest.raises(DataError, match=r"a\.csv has one text per row but b\.csv has two"):
        read_tables(tmp_path, files)


def test_files_with_generic_extensions_use_channel_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "part-00000": b"a,x\n",
        "b.txt": b"b,y\n",
        "_SUCCESS": b"",
        "c.gz": gzip.compress(b"c,w\n"),
        "d.jsonl": b'{"y":1,"z":"z"}',
        "e.zip": b"",
    }
    with caplog.at_level(logging.INFO):
        assert [record.labels for record in read_records(read_tables(tmp_path, files, "csv"))] == [
            ("b",),
            ("c",),
            ("1",),
            ("a",),
        ]
    assert "skipped files that are not tables: 1 .zip, 1 without ending" in caplog.text
    assert "b.txt: label from column '0', text from '1'" in caplog.text


def test_booleans_have_same_classes_in_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": [True, False], "text": ["x", "y"]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "b.csv", index=False)
    frame.to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    assert [record.labels for record in read_records(read_tables(tmp_path, {}))] == [("True",), ("False",)] * 3


def test_missing_labels_are_bad_records_in_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": [1.0, 0.0, None], "text": ["x", "y", "z"]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "b.csv", index=False, na_rep="nan")
    frame.to_csv(tmp_path / "c.csv", index=False)
    frame.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    frame.astype(str).to_parquet(tmp_path / "e.parquet")
    reader = read_tables(tmp_path, {}, max_bad_records=5)
    assert [record.labels for record in read_records(reader)] == [("1",), ("0",)] * 5
    assert len(reader.left_out) == 5
    assert dict(reader.left_out)["b.csv:4"] == (
        "the label is missing ('nan'; if this is a class name, list all classes in class_names)"
    )


def test_parts_without_header_use_columns_of_first_part(tmp_path: Path) -> None:
    kinds = (("bad", "neg"), ("fine", "pos"))
    rows = [f"it was {word} {number},{label}" for number in range(12) for word, label in kinds]
    files = {
        "part-0.csv": "\n".join(["words,kind", *rows[:12]]).encode(),
        "part-1.csv": "\n".join(rows[12:]).encode(),
    }
    reader = read_tables(tmp_path, files)
    assert [record.labels[0] for record in read_records(reader)] == ["neg", "pos"] * 12


def test_parts_with_headers_use_their_own_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"0.csv": b"label,text\na,x\nb,y\n", "1.csv": b"label,text\na,z\n", "2.csv": b"text,label\nw,b\n"}
    assert [record.labels[0] for record in read_records(read_tables(tmp_path, files))] == ["a", "b", "a", "b"]
    assert "repeated headers" not in caplog.text


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_with_unusual_names_are_chosen_by_content(tmp_path: Path, ending: str) -> None:
    rows = [(f"some words about {kind} number {index}", kind) for index in range(20) for kind in ("cats", "dogs")]
    frame = pd.DataFrame(rows, columns=["docstring", "library"])
    path = tmp_path / f"a.{ending}"
    match ending:
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(path)
        case _:
            frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    assert [(record.content, record.labels) for record in read_records(read_tables(tmp_path, {}))] == [
        ((text,), (kind,)) for text, kind in rows
    ]


def test_part_without_header_in_different_order_is_rejected(tmp_path: Path) -> None:
    texts = [f"it was quite fine, number {number}" for number in range(12)]
    files = {
        "part-0.csv": "".join(
            ["label,text\n", *(f'{"ab"[index % 2]},"{text}"\n' for index, text in enumerate(texts))]
        ).encode(),
        "part-1.csv": "".join(f'"{text}",{"ab"[index % 2]}\n' for index, text in enumerate(texts)).encode(),
    }
    with pytest.raises(UserError, match=r"part-1\.csv: column 'label' does not look like labels: it has 12 diff"):
        read_tables(tmp_path, files)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_later_channel_uses_columns_of_first(tmp_path: Path, ending: str) -> None:
    shared = SharedColumns()
    names = ["kind", "title", "words"]
    many = [(kind, "untitled", f"some words of number {index}") for index in range(20) for kind in ("a", "b")]
    few = [("a", f"another title {index}", "the same words again") for index in range(2)]
    channel_records = []
    for channel, rows in (("train", many), ("test", few)):
        (tmp_path / channel).mkdir()
        frame, path = pd.DataFrame(rows, columns=names), tmp_path / channel / f"rows.{ending}"
        match ending:
            case "csv":
                frame.to_csv(path, index=False)
            case "jsonl":
                frame.to_json(path, orient="records", lines=True)
            case _:
                frame.to_parquet(path)
        channel_records.append(
            read_records(read_text_tables(list_files(channel, tmp_path / channel), data_spec(), shared=shared))
        )
    assert len(channel_records[0]) == 40
    assert [(record.content, record.labels) for record in channel_records[1]] == [
        (("the same words again",), ("a",))
    ] * 2
