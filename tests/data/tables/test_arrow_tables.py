"""Folders that `save_to_disk` of Hugging Face datasets writes are read as tables."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pytest

from finetune.config.parse import parse_hyperparameters
from finetune.data.readers.open_channel import ChannelSource, open_channel
from finetune.data.record import Reader
from finetune.errors import DataError

TEXTS = [f"a text about topic number {index}" for index in range(2500)]


def save_to_disk(folder: Path, columns: dict[str, object], *, stream: bool = True) -> None:
    """Write the files of `Dataset.save_to_disk`: an Arrow stream in batches of 1,000 rows, and two JSON files."""
    folder.mkdir()
    table = pyarrow.table(columns)
    create = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with create(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}, "splits": {}}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


def read(folder: Path, **raw: str) -> Reader:
    return open_channel(ChannelSource("train", folder), parse_hyperparameters(raw).data)


@pytest.mark.parametrize("stream", [True, False])
def test_labels_and_texts_are_read(tmp_path: Path, stream: bool) -> None:
    columns = {"text": TEXTS, "label": [index % 3 for index in range(2500)], "input_ids": [[1, 2]] * 2500}
    save_to_disk(tmp_path / "train", columns, stream=stream)
    reader = read(tmp_path / "train")
    assert len(reader) == 2500
    assert [reader.labels(index) for index in (0, 1, 2, 2499)] == [("0",), ("1",), ("2",), ("0",)]
    assert reader.read(2400).content == (TEXTS[2400],)


def test_images_are_refused(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", {"image": [b"\xff\xd8"] * 3, "label": [0, 1, 0]})
    with pytest.raises(DataError, match="contains images, which are not supported in Arrow"):
        read(tmp_path / "train")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", {"text": TEXTS, "label": [0, 1] * 1250})
    path = tmp_path / "train" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read(tmp_path / "train")


def test_lines_of_blazingtext_need_no_content_type(tmp_path: Path) -> None:
    lines = "".join(f"__label__{index % 2} {text} , and more\n" for index, text in enumerate(TEXTS[:20]))
    (tmp_path / "dbpedia.train").write_text(lines)
    reader = read(tmp_path, mode="supervised")
    assert len(reader) == 20
    assert reader.labels(1) == ("1",)
