"""`finetune predict` classifies files, folders, tables and standard input."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import finetune
from finetune.serving.predictor import Predictor
from tests.cli.conftest import Finetune
from tests.support.artifact_folders import bert_folder
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import LABELS, ModelSetup

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "scikit-learn": "sklearn",
    "google-crc32c": "google_crc32c",
    "sagemaker-training": "sagemaker_training",
    "protobuf": "google.protobuf",
}
"""Names of modules that differ from those of their packages."""
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def image_predictor(image_root: Path) -> Predictor:
    return finetune.load(image_root)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_images_in_class_folders_are_classified_and_scored(
    finetune_command: Finetune, image_root: Path, class_folders: Path, tmp_path: Path, image_predictor: Predictor
) -> None:
    output = tmp_path / "predictions.csv"
    done = finetune_command("predict", image_root, class_folders, "--output", output)
    assert done.exit_code == 0, done.output
    rows = rows_of(output.read_text(encoding="utf-8"))
    paths = sorted(class_folders.rglob("*.png"))
    assert [row["input"] for row in rows] == [str(path) for path in paths]
    assert [row["label"] for row in rows] == ["cat"] * 3 + ["dog"] * 3
    expected = image_predictor.predict(paths)
    for row, prediction in zip(rows, expected, strict=True):
        assert row["predicted_label"] == prediction.label
        written = [float(row[f"probability:{name}"]) for name in LABELS]
        assert written == pytest.approx(list(prediction.probabilities.values()), abs=TOLERANCE)
    hits = sum(row["label"] == row["predicted_label"] for row in rows)
    assert f"6 predicted, written to {output}\naccuracy {hits / 6:.4f} ({hits} of 6), macro F1 0." in done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()[2:5]] == ["class", "cat", "dog"]
    assert done.stdout == ""


def test_failures_are_named_and_do_not_end_the_run(
    finetune_command: Finetune, image_root: Path, class_folders: Path, tmp_path: Path
) -> None:
    broken = class_folders / "cat" / "broken.jpg"
    broken.write_bytes(b"no image")
    done = finetune_command("predict", image_root, "missing.png", class_folders, "--batch-size", "2")
    assert done.exit_code == 1
    assert len(rows_of(done.stdout)) == 6
    assert "missing.png: no such file or folder\n" in done.stderr
    assert f"{broken}: the image cannot be decoded" in done.stderr
    assert "6 predicted, 2 failed\n" in done.stderr


def test_folders_without_known_classes_have_no_labels(
    finetune_command: Finetune, image_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "new" / "monday").mkdir(parents=True)
    (tmp_path / "new" / "monday" / "no-ending").write_bytes(encode_image(make_image(1)))
    (tmp_path / "new" / "notes.txt").write_text("no image", encoding="utf-8")
    done = finetune_command("predict", image_root, tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert [row["label"] for row in rows_of(done.stdout)] == [""]
    assert "accuracy" not in done.stderr


def test_archive_predicts_a_table_as_json_lines(finetune_command: Finetune, text_root: Path, tmp_path: Path) -> None:
    archive, table, output = (tmp_path / name for name in ("model.tar.gz", "texts.csv", "results.jsonl"))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(text_root / "model", ".")
    table.write_text('id,text,label\n1,"a good, long film",cat\n2,bad book,zebra\n3,,dog\n', encoding="utf-8")
    done = finetune_command("predict", archive, table, "-o", output)
    assert done.exit_code == 1
    first, second = (json.loads(line) for line in output.read_text(encoding="utf-8").splitlines())
    assert (first["input"], first["label"]) == (f"{table}:2", "cat")
    assert first["labels"] == list(LABELS)
    prediction = finetune.load(archive).predict("a good, long film")
    assert first["predicted_label"] == prediction.label
    assert first["probabilities"] == pytest.approx(list(prediction.probabilities.values()), abs=TOLERANCE)
    assert second["label"] == "zebra"
    assert f"{table}:4: the text is empty" in done.stderr
    assert "1 labels that the model does not know: 'zebra' (1)" in done.stderr
    assert "(1 of 1)" in done.stderr or "(0 of 1)" in done.stderr


@pytest.mark.parametrize(
    ("stdin", "keys"),
    [
        ("a good film\n\nbad book\n", ["stdin:1", "stdin:3"]),
        ('{"text": "a good film", "label": "cat"}\n{"text": "bad book"}\n', ["stdin:1", "stdin:2"]),
    ],
)
def test_standard_input_holds_texts_or_json_lines(
    finetune_command: Finetune, text_root: Path, stdin: str, keys: list[str]
) -> None:
    done = finetune_command("predict", text_root, "-", stdin=stdin)
    assert done.exit_code == 0, done.output
    assert [row["input"] for row in rows_of(done.stdout)] == keys


def test_standard_input_holds_paths_of_images(
    finetune_command: Finetune, image_root: Path, class_folders: Path
) -> None:
    paths = [str(path) for path in sorted(class_folders.rglob("*.png"))]
    done = finetune_command("predict", image_root, "-", stdin="\n".join(paths))
    assert [row["input"] for row in rows_of(done.stdout)] == paths


def test_options_limit_classes_and_abstain(finetune_command: Finetune, image_root: Path, class_folders: Path) -> None:
    done = finetune_command(
        "predict", image_root, class_folders, "--top-k", 2, "--min-confidence", 1, "--device", "cpu"
    )
    rows = rows_of(done.stdout)
    assert list(rows[0])[3:] == ["label:top_1", "probability:top_1", "label:top_2", "probability:top_2"]
    assert {row["predicted_label"] for row in rows} == {""}
    assert "accuracy 0.0000 (0 of 6)" in done.stderr
    assert "6 without a predicted label\n" in done.stderr


def test_pairs_of_texts_are_classified(finetune_command: Finetune, tmp_path: Path) -> None:
    setup = ModelSetup(None, bert_folder(tmp_path / "source"), task="text-classification")
    setup.export(tmp_path / "model", setup.build(tmp_path / "scratch"), texts_per_record=2)
    table = tmp_path / "pairs.tsv"
    table.write_text("premise\thypothesis\tlabel\na good film\tbad\tcat\n", encoding="utf-8")
    done = finetune_command("predict", tmp_path, table, "-", stdin="good\tbad\nalone\n")
    assert done.exit_code == 1
    assert [row["input"] for row in rows_of(done.stdout)] == [f"{table}:2", "stdin:1"]
    assert "stdin:2: this model expects 2 text(s) per record" in done.stderr


def test_several_labels_are_joined(finetune_command: Finetune, class_folders: Path, tmp_path: Path) -> None:
    setup = ModelSetup("resnet18", multi_label=True)
    setup.export(tmp_path / "model", setup.build(tmp_path / "scratch"))
    table = class_folders / "images.csv"
    table.write_text("image,label\ncat/0.png,cat|dog\ndog/1.png,\n", encoding="utf-8")
    done = finetune_command("predict", tmp_path, table)
    assert done.exit_code == 0, done.output
    assert [row["label"] for row in rows_of(done.stdout)] == ["cat|dog", ""]
    for row in rows_of(done.stdout):
        assert row["predicted_label"] == "|".join(name for name in LABELS if float(row[f"probability:{name}"]) > 0.5)
    assert "of 2), macro F1" in done.stderr


@pytest.mark.slow
def test_declared_dependencies_suffice(image_root: Path, text_root: Path, class_folders: Path, tmp_path: Path) -> None:
    """Packages of the image that `pip install` does not install cannot be imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=]", name)[0] for name in project["dependencies"]}
    lines = (ROOT / "container" / "requirements.in").read_text(encoding="utf-8").splitlines()
    others = {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")} - declared
    # Used by transformers.
    modules = {NAMES.get(name, name) for name in others} - {"tokenizers", "requests", "psutil"}
    block = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(modules)})); from finetune.cli.app import main; main()"
    )
    (tmp_path / "texts.csv").write_text("text,label\ngood film,cat\n", encoding="utf-8")
    for arguments in (image_root, class_folders), (text_root, tmp_path / "texts.csv"):
        command = [sys.executable, "-c", block, "predict", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "macro F1" in done.stderr


def test_impossible_outputs_are_refused_before_the_model_is_loaded(finetune_command: Finetune, tmp_path: Path) -> None:
    for arguments, message in (
        (("--output", "results.txt"), "--output results.txt: end the name in .csv, .jsonl, .ndjson, or set --format."),
        (("--format", "xml"), "--format xml: expected csv or jsonl."),
    ):
        done = finetune_command("predict", tmp_path, "image.png", *arguments)
        assert str(done.exception) == message


def test_unwritable_outputs_are_reported(
    finetune_command: Finetune, image_root: Path, class_folders: Path, tmp_path: Path
) -> None:
    output = tmp_path / "missing" / "results.csv"
    done = finetune_command("predict", image_root, class_folders, "--output", output)
    assert str(done.exception) == f"The results cannot be written to {output}: No such file or directory."
