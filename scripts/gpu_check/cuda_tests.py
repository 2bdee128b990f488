"""Runs the project's tests that depend on a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import torch

from gpu_check.requirements import missing
from gpu_check.results import NEEDS_GPU, Results, Table
from gpu_check.scale import Scale

TABLE = Table(
    "CUDA tests",
    "Test modules that check `torch.cuda.is_available()`: their tests, including those that are skipped without a GPU.",
    ("tests", "passed", "failed", "skipped", "failures"),
)
ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {"pytest": "pytest", "hypothesis": "hypothesis", "pytest_timeout": "pytest-timeout"}


def check(scale: Scale, folder: Path, results: Results) -> None:
    """Add a row for each test module."""
    del scale
    folder.mkdir()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "cuda.is_available()" in path.read_text("utf-8"):
            name = str(path.relative_to(ROOT))
            if absent := missing(_PACKAGES):
                results.add(TABLE, name, f"missing: {' '.join(absent)}", "", "", "")
            elif not torch.cuda.is_available():
                results.add(TABLE, name, NEEDS_GPU, "", "", "")
            else:
                results.add(TABLE, name, *_run(name, folder / f"{path.stem}.xml"))


def _run(module: str, report: Path) -> tuple[str, str, str, str]:
    # Warnings are errors in the project's own environment only: other versions of packages may warn.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", f"--junitxml={report}"]
    process = subprocess.run([*command, module], cwd=ROOT, capture_output=True, text=True, check=False)
    if not report.exists():
        return f"pytest failed: {' '.join(process.stdout.split())[-200:]}", "", "", ""
    outcomes: Counter[str] = Counter()
    failures = []
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - written by pytest
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        outcomes[outcome] += 1
        if outcome == "failed":
            failures.append(str(case.get("name")))
    return *(str(outcomes[name]) for name in ("passed", "failed", "skipped")), ", ".join(failures) or "none"  # type: ignore[return-value]
