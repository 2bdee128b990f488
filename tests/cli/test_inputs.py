"""Inputs on the command line become items with keys, contents and labels."""

from __future__ import annotations

from pathlib import Path

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
