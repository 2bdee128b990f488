"""Inputs on the command line become items with keys, contents and labels."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from finetune.cli.inputs import Fault, Item, ModelInputs, find_items
from finetune.cli.tables import TableColumns

IMAGES = ModelInputs(("cat", "dog"), are_texts=False, texts_per_record=1, multi_label=False)
TEXTS = ModelInputs(("cat", "dog"), are_texts=True, texts_per_record=1, multi_label=False)


def found(model: ModelInputs, *inputs: Path) -> list[Item | Fault]:
    return list(find_items([str(path) for path in inputs], model, TableColumns()))


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_class_folders_are_labels_if_the_model_knows_one(tmp_path: Path) -> None:
    paths = [write(tmp_path / name) for name in ("cat/deep/a.jpg", "zebra/b.PNG", "c.gif")]
    for name in ("cat/.hidden.jpg", ".cache/d.jpg", "cat/readme.txt", "cat/Thumbs.db"):
        write(tmp_path / name)
    labels = {str(paths[0]): ("cat",), str(paths[1]): ("zebra",), str(paths[2]): None}
    assert {item.key: item.labels for item in found(IMAGES, tmp_path) if isinstance(item, Item)} == labels
    assert [item.key for item in found(IMAGES, tmp_path)] == sorted(labels)
    assert found(IMAGES, tmp_path / "zebra") == [Item(str(paths[1]), paths[1])]


def test_any_file_may_be_an_image(tmp_path: Path) -> None:
    path = write(tmp_path / "file")
    assert found(IMAGES, path) == [Item(str(path), path)]


def test_tables_name_images_relative_to_their_folder(tmp_path: Path) -> None:
    table = write(tmp_path / "list.csv", "file,label\na.jpg,cat\nb.jpg,\n,dog\n")
    lines = write(tmp_path / "list.jsonl", '{"path": "a.jpg", "label": 1}\n{"path": 5}\n')
    image, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    assert found(IMAGES, table, lines) == [
        Item(str(image), image, ("cat",)),
        Item(str(other), other),
        Fault(f"{table}:4", "file is empty"),
        Item(str(image), image, ("1",)),
        Fault(f"{lines}:2", "path must contain text"),
    ]


def test_text_files_have_a_text_per_line(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.txt", "\ufeffone, two\r\n\nthree\n")
    assert found(TEXTS, path) == [Item(f"{path}:1", ("one, two",)), Item(f"{path}:3", ("three",))]


def test_binary_files_are_one_fault(tmp_path: Path) -> None:
    paths = [tmp_path / "image.png", tmp_path / "table.csv"]
    for path in paths:
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\n\xff\n")
    assert found(TEXTS, *paths) == [Fault(str(path), "is not a text file") for path in paths]


def test_folders_of_texts_are_read_in_name_order(tmp_path: Path) -> None:
    second, first = write(tmp_path / "b.txt", "two\n"), write(tmp_path / "a" / "c.csv", "text\none\n")
    write(tmp_path / "image.jpg")
    assert found(TEXTS, tmp_path) == [Item(f"{first}:2", ("one",)), Item(f"{second}:1", ("two",))]


def test_table_without_known_columns_is_one_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\nc,d\n")
    (fault,) = found(TEXTS, path)
    assert isinstance(fault, Fault)
    assert fault.key == str(path)
    assert "set --text-column to one of: 0, 1" in fault.reason


@pytest.mark.parametrize(
    ("model", "reason"),
    [(IMAGES, "contains no images"), (TEXTS, "contains no texts: no file ends in .csv, .tsv")],
    ids=["images", "texts"],
)
def test_missing_and_empty_inputs_are_faults(tmp_path: Path, model: ModelInputs, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    missing, empty = found(model, tmp_path / "none", tmp_path / "empty")
    assert missing == Fault(str(tmp_path / "none"), "no such file or folder")
    assert isinstance(empty, Fault)
    assert empty.reason.startswith(reason)


def test_several_labels_are_split(tmp_path: Path) -> None:
    model = ModelInputs(("cat", "dog"), are_texts=True, texts_per_record=1, multi_label=True)
    table = write(tmp_path / "t.csv", "text,label\na,cat|dog\nb,\n")
    assert [item.labels for item in found(model, table) if isinstance(item, Item)] == [("cat", "dog"), ()]


def test_compressed_tables_and_texts_are_read(tmp_path: Path) -> None:
    content = {
        "a.csv.gz": b"text,label\none,cat\n", "b.jsonl.gz": b'{"text": "two"}\n', "c.txt.gz": b"three\n",
        "d.csv": b"text\nfour\n",  # a name without .gz, as some tools write
    }  # fmt: skip
    for name, text in content.items():
        (tmp_path / name).write_bytes(gzip.compress(text))
    assert found(TEXTS, tmp_path) == [
        Item(f"{tmp_path}/a.csv.gz:2", ("one",), ("cat",)),
        Item(f"{tmp_path}/b.jsonl.gz:1", ("two",)),
        Item(f"{tmp_path}/c.txt.gz:1", ("three",)),
        Item(f"{tmp_path}/d.csv:2", ("four",)),
    ]


def test_damaged_gzip_is_a_fault_after_its_readable_rows(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"{number} {'x' * 50} {number**9}\n" for number in range(20_000)).encode())
    (tmp_path / "a.txt.gz").write_bytes(whole[:-1000])
    (tmp_path / "b.csv.gz").write_bytes(b"text\nnot compressed\n")
    items = found(TEXTS, tmp_path)
    assert isinstance(items[0], Item)
    faults = [item for item in items if isinstance(item, Fault)]
    assert [(fault.key, fault.reason[:28]) for fault in faults] == [
        (f"{tmp_path}/a.txt.gz", "is damaged or truncated gzip")
    ]
    assert items[-1] == Item(f"{tmp_path}/b.csv.gz:2", ("not compressed",))


def test_parquet_has_texts_or_paths_of_images(tmp_path: Path) -> None:
    columns = {"id": [1, 2, 3], "text": ["one", None, "three"], "label": ["cat", "dog", None], "image": ["a.jpg"] * 3}
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert found(TEXTS, path) == [
        Item(f"{path}:1", ("one",), ("cat",)),
        Fault(f"{path}:2", "text must contain text"),
        Item(f"{path}:3", ("three",)),
    ]
    image = tmp_path / "a.jpg"
    assert found(IMAGES, path) == [Item(str(image), image, labels) for labels in (("cat",), ("dog",), None)]


def test_parquet_without_usable_columns_is_one_fault(tmp_path: Path) -> None:
    damaged, images, other = (tmp_path / f"{name}.parquet" for name in ("damaged", "images", "other"))
    pyarrow.parquet.write_table(pyarrow.table({"image": [{"bytes": b"x", "path": "a"}], "label": ["cat"]}), images)
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x"], "b": ["y"]}), other)
    damaged.write_bytes(images.read_bytes()[:-20])
    (fault,) = found(TEXTS, other)
    assert isinstance(fault, Fault)
    assert "set --text-column to one of: a, b" in fault.reason
    (fault,) = found(IMAGES, images)
    assert fault == Fault(str(images), "column 'image' contains images, which are not supported in Parquet; use files")
    (fault,) = found(TEXTS, damaged)
    assert isinstance(fault, Fault)
    assert fault.reason.startswith("cannot be read as Parquet after row 0: ")


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    path.write_bytes(b"PK\x03\x04\0\0\0\0")
    (fault,) = found(TEXTS, path)
    assert isinstance(fault, Fault)
    assert fault.reason.startswith("is a zip archive or a spreadsheet")
