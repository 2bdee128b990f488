"""The demo reports the results of its jobs, and fails if they fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from letters_to_digits.jobs import JobFailedError, Outcome, outcome_of
from letters_to_digits.table import comparison
from sagemaker_simulator import JobResult, Storage, TrainingJob, TrainingRequest, run_job

ROOT = Path(__file__).resolve().parents[2]

WRITE_METRICS = """
import json, os, pathlib
metrics = {"test": {"accuracy": 0.75, "records": 8}, "job": {"trainable_parameters": 5130}}
(pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"]) / "model" / "metrics.json").write_text(json.dumps(metrics))
"""


def job_of(code: str, folder: Path) -> JobResult:
    job = TrainingJob(TrainingRequest(), (sys.executable, "-c", code), Storage(folder / "s3"))
    return run_job(job, folder / "opt-ml")


def outcome(parameters: int, accuracy: float) -> Outcome:
    return Outcome(parameters, 12.34, {"test": accuracy}, {"test": 8}, Path("model.tar.gz"))


def test_numbers_are_read_from_the_artifact(tmp_path: Path) -> None:
    result = outcome_of(job_of(WRITE_METRICS, tmp_path))
    assert result.trainable_parameters == 5130
    assert result.accuracy == {"test": 0.75}
    assert result.records == {"test": 8}
    assert result.model.is_file()


def test_failed_job_is_reported_with_log(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"exit code 3\n *Its log: .*000\.log"):
        outcome_of(job_of("raise SystemExit(3)", tmp_path))


def test_table_shows_gain_of_each_strategy() -> None:
    lines = comparison({"full": outcome(11_181_642, 0.85), "from_scratch": outcome(11_181_642, 0.7)}).splitlines()
    assert lines[2].split() == ["full", "11,181,642", "12.3", "0.850", "+0.150"]
    assert lines[3].split() == ["from_scratch", "11,181,642", "12.3", "0.700"]


def test_table_omits_failed_job() -> None:
    assert comparison({"full": outcome(5130, 0.85)}).splitlines()[2].split() == ["full", "5,130", "12.3", "0.850"]


@pytest.mark.slow
def test_pretrained_weights_beat_random_weights(tmp_path: Path) -> None:
    # Half of the letters take half of the time, and fewer digits make the difference larger.
    sizes = ["--variants", "2", "--per-class", "2"]
    command = [sys.executable, "-P", "-m", "letters_to_digits", "--folder", str(tmp_path / "demo"), *sizes]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    lines = completed.stdout.partition("---\n")[2].partition("\n\n")[0].splitlines()
    accuracy = {words[0]: float(words[3]) for words in map(str.split, lines)}
    assert list(accuracy) == ["feature_extraction", "partial", "full", "from_scratch"]
    assert min(accuracy[name] for name in accuracy if name != "from_scratch") > accuracy["from_scratch"]
    # All five jobs are healthy, so that no rule has findings.
    reports = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "demo").glob("jobs/*/**/report.json")]
    assert [report["findings"] for report in reports] == [[]] * 5
