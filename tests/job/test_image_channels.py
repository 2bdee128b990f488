"""Image channels are read in every supported format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.coloured_images import COLORS, encode_image, make_image, write_images
from tests.support.whole_jobs import run_training, succeeded, train_in_folder

QUICK = {"strategy": "feature_extraction", "epochs": "1"}


def test_train_needs_only_channels(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    data = tmp_path / "input" / "data"
    data.mkdir(parents=True)
    (data / "train").symlink_to(holdout)
    (data / "model").symlink_to(artifact)
    job = succeeded(train_in_folder(tmp_path))
    assert len(job.accuracies()) == 10
    assert job.metrics()["job"]["strategy"] == "full"
    assert job.artifact()["labels"] == list(COLORS)


def test_channel_training_is_an_alias_of_train(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    test = write_images(tmp_path / "test", 2, first=200, names=("blue", "red"))
    job = succeeded(run_training(tmp_path / "job", {"training": holdout, "test": test, "model": artifact}, QUICK))
    assert "records   train 18, validation 6, test 4" in job.log
    assert job.metrics()["test"]["records"] == 4
    assert {row["label"] for row in job.predictions("test")} == {"blue", "red"}


def test_split_does_not_depend_on_channel_names(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    again = tmp_path / "again"
    for path in sorted(holdout.rglob("*.png")):
        (again / path.parent.name).mkdir(parents=True, exist_ok=True)
        (again / path.parent.name / f"x{100 - int(path.stem) % 100}.png").write_bytes(path.read_bytes())

    def held_out(folder: Path, workdir: Path) -> set[bytes]:
        job = succeeded(run_training(workdir, {"train": folder, "model": artifact}, QUICK))
        return {(folder / row["record"]).read_bytes() for row in job.predictions()}

    first, second = held_out(holdout, tmp_path / "a"), held_out(again, tmp_path / "b")
    assert len(first) == 6
    assert first == second


def test_all_records_are_used_without_validation(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    job = succeeded(
        run_training(tmp_path, {"train": holdout, "model": artifact}, {**QUICK, "validation_fraction": "0"})
    )
    assert "records   train 24\n" in job.log
    assert "validation" not in job.metrics()
    assert not job.accuracies()
    assert "train:accuracy=" in job.log
    assert "The exported artifact repeats" in job.log


def write_lists(folder: Path, lines: list[str]) -> Path:
    folder.mkdir()
    (folder / "pictures.lst").write_text("".join(f"{number}\t{line}\n" for number, line in enumerate(lines)))
    return folder


def test_image_lists_name_images_and_classes(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    files = sorted(path.relative_to(holdout) for path in holdout.rglob("*.png"))
    numbers = {"blue": 0, "green": 1, "red": 2}
    train = write_lists(tmp_path / "train", [f"{numbers[str(f.parent)]}.0\t{f}" for f in files if f.stem < "106"])
    held_out = write_lists(tmp_path / "held-out", [f"{numbers[str(f.parent)]}\t{f}" for f in files if f.stem >= "106"])
    channels = {"train": holdout, "train_lst": train, "validation": holdout, "validation_lst": held_out}
    channels |= {"test": holdout, "test_lst": held_out}
    job = succeeded(run_training(tmp_path / "job", {**channels, "model": artifact}, QUICK))
    assert "records   train 18, validation 6, test 6" in job.log
    assert job.metrics()["test"]["accuracy"] == job.metrics()["validation"]["accuracy"]
    assert job.artifact()["labels"] == ["0", "1", "2"]


def test_several_classes_per_image(tmp_path: Path, artifact: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for number in range(16):
        left, right = number % 2, number // 2 % 2
        image = Image.new("RGB", (64, 32), (90, 90, 90))
        image.paste(make_image("red", number) if left else make_image("green", number), (0, 0))
        image.paste(make_image("blue", number), (32, 0)) if right else None
        (folder / f"{number}.png").write_bytes(encode_image(image))
        lines.append(f"{left}\t{right}\t{number}.png")
    channels = {"train": folder, "train_lst": write_lists(tmp_path / "lists", lines), "model": artifact}
    job = succeeded(run_training(tmp_path / "job", channels, {**QUICK, "multi_label": "true"}))
    assert job.artifact()["multi_label"] is True
    assert job.artifact()["labels"] == ["0", "1"]
    assert not job.metrics()["job"]["kept_head"]
    assert {row["label"] for row in job.predictions()} <= {"", "0", "1", "0|1"}
    assert "The exported artifact repeats" in job.log


FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cmyk.jpg": lambda image: image.convert("CMYK"),
    "palette.png": lambda image: image.quantize(64),
    "grey.bmp": lambda image: image.convert("L"),
    "alpha.webp": lambda image: image.convert("RGBA"),
    "plain.JPEG": lambda image: image,
}
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".JPEG": "JPEG"}


def test_images_of_different_formats_are_mixed(tmp_path: Path, artifact: Path) -> None:
    folder = write_images(tmp_path / "train", 4)
    for number, (name, change) in enumerate(FORMS.items()):
        for colour in COLORS:
            content = encode_image(change(make_image(colour, 50 + number)), FORMATS[Path(name).suffix])
            (folder / colour / name).write_bytes(content)
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image("red", 99).resize((48, 32)).save(folder / "red" / "turned.jpg", exif=exif)
    job = succeeded(run_training(tmp_path / "job", {"train": folder, "validation": folder, "model": artifact}, QUICK))
    assert job.metrics()["validation"]["records"] == 12 + 5 * 3 + 1
    coloured = [row for row in job.predictions() if "grey" not in row["record"]]
    right = sum(row["label"] == row["predicted_label"] for row in coloured)
    assert right >= len(coloured) - 2


@pytest.mark.parametrize("allowed", ["1", "2"])
def test_bad_records_are_skipped_up_to_the_limit(allowed: str, tmp_path: Path, artifact: Path) -> None:
    folder = write_images(tmp_path / "train", 6)
    (folder / "red" / "empty.png").write_bytes(b"")
    (folder / "blue" / "cut.png").write_bytes(encode_image(make_image("blue", 70))[:900])
    job = run_training(tmp_path / "job", {"train": folder, "model": artifact}, {**QUICK, "max_bad_records": allowed})
    if allowed == "1":
        assert job.exit_code == 1
        assert "max_bad_records=1" in job.failure
        return
    succeeded(job)
    listed = dict(json.loads((job.folder.output_data / "bad_records.json").read_text())["train"])
    assert set(listed) == {"blue/cut.png", "red/empty.png"}
    assert all(listed.values())
