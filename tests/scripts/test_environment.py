"""`scripts/environment` and `scripts/example` list the valid names if given an unknown one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((str(ROOT / "scripts" / script), *arguments), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["", "sdk-v9", "../uv"])
def test_unknown_environment_is_refused_with_valid_names(name: str) -> None:
    completed = run("environment", name)
    assert completed.returncode == 2
    assert completed.stderr.split() == ["environment:", "give", "one", "of:", *known_environments()]


def known_environments() -> list[str]:
    return sorted(path.stem for path in (ROOT / "scripts" / "environments").glob("*.in"))


@pytest.mark.parametrize("name", ["", "sdk_v2/unknown", "sdk_v2/estimators/..", "settings"])
def test_unknown_example_is_refused_with_valid_names(name: str) -> None:
    completed = run("example", name)
    assert completed.returncode == 2
    assert {"sdk_v2/train", "sdk_v3/train", "sdk_v2/deploy"} <= set(completed.stderr.split())
    assert "sdk_v2/estimators" not in completed.stderr
