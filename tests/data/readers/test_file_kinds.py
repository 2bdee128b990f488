"""Files that are not tables are identified by their content, whatever their extension."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from finetune.data.readers.channel_files import list_files
from finetune.data.readers.file_kinds import non_table_kind
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.data.tables.reader import read_text_tables
from finetune.errors import DataError
from tests.support.labelled_data import data_spec, write_files
from tests.support.table_modes import from_stream

ROWS = pa.table({"label": ["a", "b"], "text": ["x", "y"]})


def zip_archive(name: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, "content")
    return target.getvalue()


def tar_archive() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("rows.csv"))
    return target.getvalue()


def arrow_file(kind: str) -> bytes:
    target = pa.BufferOutputStream()
    match kind:
        case "parquet":
            pq.write_table(ROWS, target)
        case "feather":
            pa.feather.write_feather(ROWS, target, compression="uncompressed")
        case _:
            pa.orc.write_table(ROWS, target)
    content: bytes = target.getvalue().to_pybytes()
    return content


FILES: dict[str, Callable[[], bytes]] = {
    "a zip archive or a spreadsheet": lambda: zip_archive("xl/workbook.xml"),
    "an Excel 97-2003 spreadsheet": lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
    "Parquet": lambda: arrow_file("parquet"),
    "Arrow or Feather": lambda: arrow_file("feather"),
    "ORC": lambda: arrow_file("orc"),
    "a tar archive": tar_archive,
    "compressed with xz": lambda: b"\xfd7zXZ\x00" + bytes(50),
    "a PDF document": lambda: b"%PDF-1.7\n",
    "a Git LFS pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "an HTML or XML page": lambda: b'\n<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
@pytest.mark.parametrize("kind", FILES)
def test_foreign_files_with_table_names_raise(tmp_path: Path, kind: str, name: str) -> None:
    content = FILES[kind]()
    with pytest.raises(
        DataError, match=rf"channel 'train', {name} is {kind}.*expected CSV, TSV, JSON Lines or Parquet"
    ):
        read_text_tables(list_files("train", write_files(tmp_path, {name: content})), data_spec())
    assert f"is {kind}" in from_stream(content, "jsonl" if name == "rows.jsonl" else "csv").refusal


@pytest.mark.parametrize("content", [b"ORCA,a whale", b"PARIS,a town", b"BZh,x", b"SQLite format 3,x", b"a,b", b""])
def test_texts_that_resemble_signatures_are_texts(content: bytes) -> None:
    assert non_table_kind(content) is None


def test_spreadsheet_next_to_tables_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, {"a.csv": b"label,text\na,x\nb,y\n", "b.xlsx": zip_archive("xl/workbook.xml")})
    read_text_tables(list_files("train", tmp_path), data_spec())
    (record,) = [record for record in caplog.records if "skipped files" in record.message]
    assert (record.levelname, record.message) == (
        "WARNING",
        "channel 'train': skipped files that are not tables: 1 .xlsx",
    )


@pytest.mark.parametrize(
    "kind",
    [pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.binary()],
    ids=["struct of bytes and path", "bytes"],
)
def test_images_in_parquet_raise(tmp_path: Path, kind: pa.DataType) -> None:
    images = [{"bytes": b"x", "path": None}] * 2 if pa.types.is_struct(kind) else [b"x"] * 2
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"a\.parquet: column 'image' contains images, which are not supported in Parquet"
    ):
        open_channel(ChannelSource("train", tmp_path), data_spec())


def test_images_next_to_texts_in_parquet_are_ignored(tmp_path: Path) -> None:
    rows = pa.table({"image": [b"x", b"y"], "label": ["a", "b"], "text": ["one", "two"]})
    pq.write_table(rows, tmp_path / "a.parquet")
    assert len(open_channel(ChannelSource("train", tmp_path), data_spec())) == 2


def test_blazingtext_lines_are_read_by_content_type(tmp_path: Path) -> None:
    write_files(tmp_path, {"dbpedia.train": b"__label__pos good , nice\n__label__neg awful\n"})
    reader = open_channel(ChannelSource("train", tmp_path, content_type="text/plain"), data_spec())
    assert [(reader.read(index).content, reader.labels(index)) for index in range(2)] == [
        (("good , nice",), ("pos",)),
        (("awful",), ("neg",)),
    ]
