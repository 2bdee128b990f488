"""Jobs are compared by their reports, in the terminal and on a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.local.comparison import compare_runs, find_runs
from tests.cli.conftest import Finetune
from tests.cli.conftest import finetune_command as finetune_command


def write_report(root: Path, accuracy: float | None, **settings: object) -> Path:
    parts = {"validation": {"accuracy": accuracy, "records": 20, "loss": 0.5, "macro": {"f1": 0.25}}}
    report: dict[str, Any] = {
        "parts": {} if accuracy is None else parts,
        "job": {"model_name": "resnet18", "strategy": "full", "epochs": 2, "finished": accuracy is not None},
        "history": [{"validation:loss": 0.75, "validation:accuracy": 0.5}, {"validation:loss": 0.5}],
        "asked": {"effective": {"name": "full", "epochs": 2, "seed": 0, **settings}},
        "plan": {"facts": {"device": "cpu, fp32"}},
        "cost": {"seconds": 90.0, "price": None},
    }
    folder = root / "output" / "data"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return root


def test_the_best_job_comes_first(tmp_path: Path) -> None:
    roots = [write_report(tmp_path / name, score) for name, score in (("a", 0.5), ("b", None), ("c", 0.75))]
    jobs = compare_runs(roots)
    assert [job.name for job in jobs] == ["c", "a", "b"]
    assert jobs[0].results == {
        "accuracy": "0.7500",
        "95% interval": "0.531 to 0.888",
        "macro F1": "0.2500",
        "loss": "0.5000",
        "records": "20 of validation",
        "epochs trained": "2",
        "duration": "90 s",
        "device": "cpu, fp32",
    }
    assert jobs[2].results["state"] == "stopped"
    assert find_runs(tmp_path) == roots
    with pytest.raises(UserError, match=r"contains no report\.json"):
        compare_runs([tmp_path])
    with pytest.raises(UserError, match="contains no job with a report"):
        find_runs(tmp_path / "a")


def test_the_command_writes_a_page(tmp_path: Path, finetune_command: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write_report(tmp_path / "runs" / "slow", 0.5, learning_rate=0.001)
    write_report(tmp_path / "runs" / "fast", 0.75, learning_rate="<0.1>")
    done = finetune_command("compare")
    assert done.exit_code == 0, done.output
    words = done.stdout.split()
    assert words.index("fast") < words.index("slow")
    assert "Hyperparameters that differ:" in done.stdout
    assert "learning_rate" in words
    assert "seed" not in words
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "&lt;0.1&gt;" in page
    assert "validation loss over epoch: fast, slow" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_report_is_found(tmp_path: Path, finetune_command: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []

    def open_page(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", open_page)
    write_report(tmp_path / "run", 0.5)
    assert isinstance(finetune_command("report", "run").exception, UserError)
    (tmp_path / "run" / "output" / "data" / "report.html").touch()
    assert finetune_command("report", "run", "--no-browser").stdout == "run/output/data/report.html\n"
    assert opened == []
    assert finetune_command("report", "run").exit_code == 0
    assert opened == [(tmp_path / "run/output/data/report.html").as_uri()]
