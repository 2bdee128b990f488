"""Rules in whole jobs: no effect on results, silent on healthy training, and a clean stop where configured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.whole_jobs import run_training, succeeded

pytestmark = pytest.mark.slow

OPTIONS = {"strategy": "full", "epochs": "3", "batch_size": "6"}
HOPELESS = {**OPTIONS, "epochs": "6", "learning_rate": "10", "head_learning_rate": "10", "optimizer": "sgd"}


@pytest.mark.parametrize("more", [{}, {"gradient_clip_norm": "0.5"}])
def test_rules_do_not_change_results(tmp_path: Path, holdout: Path, artifact: Path, more: dict[str, str]) -> None:
    channels = {"train": holdout, "model": artifact}
    with_rules = succeeded(run_training(tmp_path / "with", channels, {**OPTIONS, **more}))
    without = succeeded(run_training(tmp_path / "without", channels, {**OPTIONS, **more, "rules": "none"}))
    assert with_rules.weights() == without.weights()
    assert with_rules.metrics()["job"]["history"] == without.metrics()["job"]["history"]


@pytest.mark.parametrize("seed", range(10))
def test_healthy_jobs_have_no_findings(tmp_path: Path, holdout: Path, artifact: Path, seed: int) -> None:
    strategy = ("full", "partial", "feature_extraction", "gradual")[seed % 4]
    options = {**OPTIONS, "strategy": strategy, "seed": str(seed)}
    job = succeeded(run_training(tmp_path, {"train": holdout, "model": artifact}, options))
    report = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))
    assert report["findings"] == report["machine_findings"] == []
    assert len(report["rules"]) == 22


def test_finding_is_in_log_and_report(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {**HOPELESS, "rules": "LossNotDecreasing:num_steps=2,WeightUpdateRatio:large_threshold=0.01"}
    job = run_training(tmp_path, {"train": holdout, "model": artifact}, options)
    assert "WARNING: rule WeightUpdateRatio at step 0: one step changed the weights by" in job.log


def test_job_stopped_by_rule_is_exported(tmp_path: Path, holdout: Path, artifact: Path) -> None:
    options = {
        **OPTIONS,
        "epochs": "40",
        "rules": "WeightUpdateRatio:large_threshold=0.0001",
        "rule_action": "stop",
    }
    job = succeeded(run_training(tmp_path, {"train": holdout, "model": artifact}, options))
    metrics = job.metrics()
    assert metrics["job"]["steps"] < 40
    assert not metrics["job"]["finished"]
    assert metrics["validation"]["records"] > 0
    report = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))
    assert [finding["rule"] for finding in report["findings"]] == ["WeightUpdateRatio"]
    assert job.artifact()["labels"]


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ("Overfitt", "there is no rule 'Overfitt' (did you mean 'Overfit'?)"),
        ("Overfit:patienc=3", "Overfit has no parameter 'patienc': it has start_step, patience, ratio_threshold"),
        ("Overfit:patience=few", "Overfit:patience is 'few', expected a number"),
    ],
)
def test_unknown_rule_is_refused(tmp_path: Path, holdout: Path, rules: str, text: str) -> None:
    job = run_training(tmp_path, {"train": holdout}, {"rules": rules})
    assert job.exit_code == 1
    assert text in job.failure
