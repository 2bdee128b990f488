"""Whole jobs whose class names, file names and hyperparameters contain control characters and look like metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.coloured_images import encode_image, make_image
from tests.support.whole_jobs import run_training, succeeded, train_in_folder


def test_class_and_file_names_that_look_like_metrics_are_not_found_in_the_log(tmp_path: Path, artifact: Path) -> None:
    fakes = ("validation:accuracy=0.999999;", "b\nvalidation:accuracy=0.888888;\n", "c\x1b[2K\u202e\u2028\r")
    for number, name in enumerate(fakes):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number_in_class in range(6):
            content = encode_image(make_image("blue", 10 * number + number_in_class))
            (tmp_path / "train" / name / f"x\nvalidation:accuracy=0.777777; {number_in_class}.png").write_bytes(content)
    (tmp_path / "train" / fakes[0] / "bad\nvalidation:accuracy=0.555555;.png").write_bytes(b"no image")
    (tmp_path / "train" / fakes[0] / "other\nvalidation:accuracy=0.444444;.txt").write_bytes(b"no image")
    options = {"strategy": "feature_extraction", "epochs": "1", "max_bad_records": "1"}
    job = succeeded(run_training(tmp_path, {"train": tmp_path / "train", "model": artifact}, options))
    rows = job.metrics()["job"]["history"]
    assert job.accuracies() == [pytest.approx(row["validation:accuracy"], abs=1e-6) for row in rows]
    metric_lines = [line for line in job.log.split("\n") if "validation:accuracy=" in line]
    assert all(re.match(r"epoch=[0-9]+; |final; ", line) for line in metric_lines)
    assert all(re.fullmatch(r"(epoch=1|final);( [a-z_0-9:]+=[0-9.]+;)+", line) for line in metric_lines)
    assert all(line.isprintable() for line in job.log.split("\n"))
    assert "accuracy=0.888888;" not in [line.strip() for line in job.log.split("\n")]
    page = (job.folder.output_data / "report.html").read_text("utf-8")
    assert not {"\x1b", "\u202e", "\u2028"} & set(page)


def test_hyperparameters_that_look_like_metrics_are_not_found_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "ml" / "input" / "config").mkdir(parents=True)
    (tmp_path / "ml" / "input" / "data" / "train").mkdir(parents=True)
    options = {"class_names": "validation:accuracy=0.999999;", "validation:accuracy=0.5;\n": "\nvalidation:loss=0.1;"}
    (tmp_path / "ml" / "input" / "config" / "hyperparameters.json").write_text(json.dumps(options), "utf-8")
    job = train_in_folder(tmp_path / "ml")
    assert job.exit_code == 1
    assert not re.search(r"(accuracy|loss)=[0-9.]", job.log + job.failure)
