"""Jobs on image folders as they come from cameras, scanners and network drives."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.coloured_images import COLORS, encode_image, make_image, write_images
from tests.support.whole_jobs import run_training, succeeded

QUICK = {"strategy": "feature_extraction", "epochs": "1"}


def test_every_format_is_read_and_left_out_files_are_warned_of_and_reported(tmp_path: Path, artifact: Path) -> None:
    folder = write_images(tmp_path / "train", 3)
    forms = {"a.tif": "TIFF", "b.GIF": "GIF", "c.jfif": "JPEG", "d.ppm": "PPM", "e": "JPEG", "f.jpg_large": "JPEG"}
    for number, (name, kind) in enumerate(forms.items()):
        for colour in COLORS:
            (folder / colour / name).write_bytes(encode_image(make_image(colour, 40 + number), kind))
    (folder / "red" / "g.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for location in ("@eaDir/1.png", "red/@eaDir/1.png"):
        (folder / location).mkdir(parents=True)
        (folder / location / "SYNOPHOTO_THUMB_M.jpg").write_bytes(encode_image(make_image("blue", 1), "JPEG"))
    channels = {"train": folder, "validation": folder, "model": artifact}
    job = succeeded(run_training(tmp_path / "job", channels, QUICK))
    assert job.artifact()["labels"] == list(COLORS)
    assert job.metrics()["validation"]["records"] == 9 * len(COLORS)
    assert "WARNING" in job.log
    assert "skipped 1 files that are not supported images: 1 .heic; by class: 'red' 1 of 10 files" in job.log
    report = json.loads((job.folder.output_data / "report.json").read_text())
    assert report["left_out_files"] == {name: {"red": {".heic": 1}} for name in ("train", "validation")}
    assert 'id="left-out"' in (job.folder.output_data / "report.html").read_text()


def test_sixteen_bit_images_with_low_values_are_scaled_in_training_and_in_the_artifact(
    tmp_path: Path, artifact: Path
) -> None:
    folder = tmp_path / "train"
    for name, level in (("bright", 230), ("dark", 20)):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            values = np.full((32, 32), level + number, dtype=np.uint16)
            (folder / name / f"{number}.png").write_bytes(encode_image(Image.fromarray(values)))
    job = succeeded(run_training(tmp_path / "job", {"train": folder, "model": artifact}, {**QUICK, "epochs": "30"}))
    assert "16 16-bit images have values up to 237, so they are read as 8-bit images" in job.log
    assert job.artifact()["preprocessing"]["sixteen_bit_depth"] == 8
    assert job.metrics()["validation"]["accuracy"] == 1
    assert "The exported artifact repeats" in job.log


def test_an_archive_of_images_with_dots_in_their_names_trains_as_its_folders_do(tmp_path: Path, artifact: Path) -> None:
    folder, packed = tmp_path / "train", tmp_path / "packed"
    for colour in COLORS:
        (folder / colour).mkdir(parents=True)
        for number in range(4):
            (folder / colour / f"{colour}.{number}.png").write_bytes(encode_image(make_image(colour, number)))
    packed.mkdir()
    with tarfile.open(packed / "images.tar.gz", "w:gz") as archive:
        archive.add(folder, "dataset")
    jobs = [
        succeeded(run_training(tmp_path / f"{location.name}-job", {"train": location, "model": artifact}, QUICK))
        for location in (folder, packed)
    ]
    assert [job.artifact()["labels"] for job in jobs] == [list(COLORS)] * 2
    assert "records   train 9, validation 3" in jobs[1].log
    held_out = [sorted(row["label"] for row in job.predictions()) for job in jobs]
    assert held_out == [sorted(COLORS)] * 2


def test_class_folders_named_by_numbers_keep_their_names_in_the_artifact(tmp_path: Path, artifact: Path) -> None:
    folder = tmp_path / "train"
    for name, colour in zip(("0.5", "1.0", "01", "1"), (*COLORS, "red"), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            (folder / name / f"{number}.png").write_bytes(encode_image(make_image(colour, number + len(name) * 10)))
    job = succeeded(run_training(tmp_path / "job", {"train": folder, "model": artifact}, QUICK))
    assert sorted(job.artifact()["labels"]) == ["0.5", "01", "1", "1.0"]
    assert "look alike" in job.log


def test_missing_listed_image_is_a_bad_record(tmp_path: Path, artifact: Path) -> None:
    folder = write_images(tmp_path / "train", 4)
    lines = [f"{number}\t{path.parent.name}\t{path.parent.name}/{path.name}\n" for number, path in
             enumerate(sorted(folder.rglob("*.png")))]  # fmt: skip
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.lst").write_text("".join([*lines, "99\tred\tred/gone.png\n"]))
    channels = {"train": folder, "train_lst": tmp_path / "lists", "model": artifact}
    job = succeeded(run_training(tmp_path / "job", channels, {**QUICK, "max_bad_records": "1"}))
    listed = dict(json.loads((job.folder.output_data / "bad_records.json").read_text())["train"])
    assert list(listed) == ["red/gone.png"]
    refused = run_training(tmp_path / "other", channels, QUICK)
    assert refused.exit_code == 1
    assert "names 'red/gone.png'" in refused.failure
    assert "max_bad_records=0 allows none" in refused.failure


def test_dataset_root_is_refused_before_training(tmp_path: Path, artifact: Path) -> None:
    for part in ("training_set", "test_set"):
        write_images(tmp_path / "data" / part, 2)
    job = run_training(tmp_path / "job", {"train": tmp_path / "data", "model": artifact}, QUICK)
    assert job.exit_code == 1
    assert "train=.../training_set" in job.failure


def test_images_next_to_a_table_with_their_labels_are_refused(tmp_path: Path, artifact: Path) -> None:
    content = io.StringIO("file,label\n0.png,red\n")
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "0.png").write_bytes(encode_image(make_image("red", 0)))
    (tmp_path / "data" / "labels.csv").write_text(content.getvalue())
    job = run_training(tmp_path / "job", {"train": tmp_path / "data", "model": artifact}, QUICK)
    assert job.exit_code == 1
    assert "1 images in a single folder 'images' and table labels.csv" in job.failure
