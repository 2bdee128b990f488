"""The most confident mistakes and duplicate contents are found."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from finetune.data.loading.dataset import Subset
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import ImageFolderReader, read_image_folder
from finetune.data.record import Record
from finetune.evaluation import data_checks
from finetune.evaluation.data_checks import check_duplicates, find_duplicates, most_confident_mistakes, thumbnail
from finetune.evaluation.predict import EvaluationResult, Predictions
from finetune.tasks.single_label import SingleLabelClassification
from tests.support.labelled_data import write_files
from tests.support.tiny import CLASSES, TinyReader, tiny_batches


def test_most_confident_mistake_comes_first_with_its_image() -> None:
    batches = tiny_batches(TinyReader(4), training=False)
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.99, 0.01, 0], [0.3, 0.7, 0]], np.float32)
    predictions = Predictions(np.arange(4), np.array([0, 1, 2, 0]), probabilities, 1.0)
    task = SingleLabelClassification(CLASSES)
    result = cast(dict[str, Any], most_confident_mistakes("test", EvaluationResult(batches, predictions), task))
    assert (result["of"], result["count"]) == (4, 3)
    assert [record["key"] for record in result["records"]] == ["0002.png", "0003.png", "0001.png"]
    first = result["records"][0]
    assert (first["truth"], first["predicted"], first["probability"]) == ("up", "down", 0.99)
    assert first["image"].startswith("data:image/jpeg;base64,")


def test_thumbnail_is_small_and_keeps_its_aspect_ratio() -> None:
    file = io.BytesIO()
    Image.new("RGB", (1000, 500), "red").save(file, "PNG")
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail(file.getvalue()).partition(",")[2])))
    assert image.size == (128, 64)


def test_duplicates_are_found_across_parts() -> None:
    reader, other = TinyReader(6), TinyReader(8, "validation")
    parts = {"train": Subset(reader, (0, 1, 2)), "validation": Subset(other, (2, 7))}
    result = cast(dict[str, Any], find_duplicates(parts))
    assert result["leaks"] == [{"parts": ["train", "validation"], "records": 1}]
    assert [[record["key"] for record in group["records"]] for group in result["groups"]] == [["0002.png", "0002.png"]]
    assert result["contradictions"] == 0


def test_only_possible_duplicates_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"a/1.jpg": b"same", "a/2.jpg": b"longer", "b/3.jpg": b"four", "b/4.jpg": b"same", "a/5.jpg": b"123"}
    write_files(tmp_path / "train", contents)
    write_files(tmp_path / "test", {"a/6.jpg": b"longer", "b/7.jpg": b"the longest"})
    parts = {
        name: Subset(reader, tuple(range(len(reader))))
        for name, reader in ((name, read_image_folder(list_files(name, tmp_path / name))) for name in ("train", "test"))
    }
    read: list[str] = []
    original_read = ImageFolderReader.read

    def record_read(self: ImageFolderReader, index: int) -> Record:
        read.append(self.key(index))
        return original_read(self, index)

    monkeypatch.setattr(ImageFolderReader, "read", record_read)
    (tmp_path / "train" / "a" / "5.jpg").unlink()
    result = cast(dict[str, Any], find_duplicates(parts))
    assert sorted(read) == ["a/1.jpg", "a/2.jpg", "a/6.jpg", "b/3.jpg", "b/4.jpg"]
    groups = [[record["key"] for record in group["records"]] for group in result["groups"]]
    assert groups == [["a/2.jpg", "a/6.jpg"], ["a/1.jpg", "b/4.jpg"]]
    assert (result["contradictions"], result["leaks"]) == (1, [{"parts": ["train", "test"], "records": 1}])


def test_duplicate_check_is_skipped_for_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_checks, "MAX_COMPARED_RECORDS", 2)
    result = check_duplicates({"train": Subset(TinyReader(6), (0, 1, 2))})
    assert result["unknown"] == "there are more than 2 records"


def test_disjoint_parts_of_one_reader_have_no_leaks() -> None:
    reader = TinyReader(9)
    parts = {"train": Subset(reader, (0, 1, 2)), "validation": Subset(reader, (3, 4))}
    assert find_duplicates(parts)["count"] == 0
