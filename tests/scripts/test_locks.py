"""The lock files agree with each other and contain nothing specific to the machine that wrote them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "container" / "requirements.txt"
DEVELOPER = ROOT / "requirements-dev.txt"
INSTALLER = ROOT / "scripts" / "uv.txt"
ENVIRONMENTS = sorted((ROOT / "scripts" / "environments").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z0-9,]+])?==(\S+)", re.MULTILINE)


def pins(lock: Path) -> dict[str, str]:
    return dict(PIN.findall(lock.read_text(encoding="utf-8")))


@pytest.mark.parametrize("lock", [IMAGE, DEVELOPER, INSTALLER, *ENVIRONMENTS], ids=lambda lock: lock.name)
def test_lines_are_pins_hashes_or_comments(lock: Path) -> None:
    entries = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    packages = [entry for entry in entries if not entry.lstrip().startswith("#")]
    assert len(packages) == len(pins(lock)) > 0
    assert [entry for entry in packages if not PIN.match(entry) or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize(
    "name",
    ["container/requirements", "requirements-dev", "scripts/uv"]
    + [f"scripts/environments/{path.stem}" for path in ENVIRONMENTS],
)
@pytest.mark.parametrize("ending", ["in", "txt"])
def test_no_registry_or_folder_is_named(name: str, ending: str) -> None:
    text = (ROOT / f"{name}.{ending}").read_text(encoding="utf-8")
    assert re.findall(r"\S*://\S*|.*--(?:extra-)?index.*|.*find-links.*|(?<![\w.])/\w\S*", text) == []


def test_development_versions_match_image() -> None:
    developer = pins(DEVELOPER)
    assert {name: version for name, version in pins(IMAGE).items() if developer.get(name) != version} == {}


def test_image_test_versions_match_image() -> None:
    inside, tests = pins(IMAGE), pins(ROOT / "scripts" / "environments" / "image-tests.txt")
    assert {name: version for name, version in tests.items() if inside.get(name, version) != version} == {}
