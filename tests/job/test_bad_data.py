"""Errors for unusable records name the channel, the file and the fix."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.coloured_images import encode_image, make_image, write_images
from tests.support.whole_jobs import run_training, train

Make = Callable[[Path, Path], Mapping[str, Path]]


@dataclass(frozen=True)
class Case:
    """Channels made from an empty folder and valid images, and the expected first line of the error."""

    make: Make
    cause: str
    hyperparameters: Mapping[str, str] = field(default_factory=dict)


def _one_class(workdir: Path, good: Path) -> Mapping[str, Path]:
    return {"train": write_images(workdir / "train", 3, names=("red",))}


def _unknown_class(workdir: Path, good: Path) -> Mapping[str, Path]:
    validation = write_images(workdir / "validation", 2)
    (validation / "red").rename(validation / "reed")
    return {"train": good, "validation": validation}


def _missing_in_list(workdir: Path, good: Path) -> Mapping[str, Path]:
    (workdir / "list").mkdir()
    (workdir / "list" / "train.lst").write_text("0\t0\tred/100.png\n1\t1\tblue/absent.png\n")
    return {"train": good, "train_lst": workdir / "list"}


def _table(content: bytes) -> Make:
    def make(workdir: Path, good: Path) -> Mapping[str, Path]:
        (workdir / "table").mkdir()
        (workdir / "table" / "rows.csv").write_bytes(content)
        return {"train": workdir / "table"}

    return make


def _with_picture(content: bytes) -> Make:
    def make(workdir: Path, good: Path) -> Mapping[str, Path]:
        shutil.copytree(good, workdir / "train")
        (workdir / "train" / "red" / "bad.png").write_bytes(content)
        return {"train": workdir / "train"}

    return make


def bomb() -> bytes:
    """A PNG file of a few hundred bytes that declares 7.5 GB of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BAD_PICTURE = r"channel 'train': red/bad\.png {} \(max_bad_records=0 allows none\); repair or remove the file, or raise"
CASES = {
    "one class": Case(_one_class, r"channel 'train' has only one class, 'red',.*two are required"),
    "unknown class": Case(
        _unknown_class,
        r"channel 'validation' has 1 classes .* training data: 'reed' \(did you mean 'red'\?\) in 2",
    ),
    "list names a missing file": Case(
        _missing_in_list,
        r"channel 'train_lst': train\.lst, line 2 names 'blue/absent\.png', but channel 'train' has no",
    ),
    "no label column": Case(
        _table(b"kind,text\na,hello\nb,you\n"),
        r"channel 'train', rows\.csv: no column 'label'; set label_column to one of: 'kind', 'text'",
        {"label_column": "label"},
    ),
    "wrong encoding": Case(
        _table("label,text\na,gr\u00fcn\nb,you\n".encode("latin-1")),
        r"channel 'train': 1 rows cannot be used: rows\.csv:2: it is not UTF-8: byte 0xfc at offset 15, line 2",
    ),
    "no image": Case(_with_picture(b"hello"), BAD_PICTURE.format("is not an image in a supported format .*")),
    "cut off": Case(
        _with_picture(encode_image(make_image("red", 50))[:900]), BAD_PICTURE.format("is a truncated image")
    ),
    "bomb": Case(_with_picture(bomb()), BAD_PICTURE.format("has more pixels than the limit of 100,000,000.*")),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_records_fail_the_job_with_their_location(name: str, tmp_path: Path, holdout: Path, artifact: Path) -> None:
    case = CASES[name]
    channels = {**case.make(tmp_path, holdout), "model": artifact}
    job = run_training(tmp_path / "job", channels, {"epochs": "1", **case.hyperparameters})
    assert job.exit_code == 1
    assert re.match(case.cause, job.failure), job.failure
    assert len(job.failure) <= 1024
    assert "Traceback" not in job.failure
    assert not list(job.folder.model.iterdir())


def test_failure_during_training_exits_through_train(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    channels = {**CASES["cut off"].make(tmp_path, holdout), "model": artifact}
    job = train(tmp_path / "job", channels, {"epochs": "1"})
    assert job.exit_code == 1
    assert re.match(CASES["cut off"].cause, job.failure)
    assert "Traceback" not in job.log


def test_unreadable_validation_fails_after_first_epoch(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    (tmp_path / "validation" / "red").mkdir(parents=True)
    (tmp_path / "validation" / "red" / "bad.png").write_bytes(b"hello")
    channels = {"train": holdout, "validation": tmp_path / "validation", "model": artifact}
    job = run_training(tmp_path / "job", channels, {"epochs": "500", "max_bad_records": "5"})
    assert job.exit_code == 1
    assert job.failure.startswith(
        "channel 'validation': none of the 1 records to evaluate can be read: red/bad.png is not an image"
    )
