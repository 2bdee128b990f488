"""Known vulnerabilities are rejected, accepted ones pass, and a missing scan result is not a pass."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.publishing.vulnerability_feed import advisory, vulnerability_feed

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {"werkzeug": advisory("GHSA-aaaa-bbbb-cccc", "werkzeug", "9.0", "CVE-2026-1")}
ACCEPTED = """
[[accepted]]
package = "werkzeug"
id = "{name}"
reason = "{reason}"
until = {until}
"""


@pytest.fixture
def sbom(tmp_path: Path) -> Path:
    packages = {"torch": "2.11.0+cu130", "Werkzeug": "3.1.9", "zope-event": "6.2"}
    components = [{"name": name, "version": one, "purl": f"pkg:pypi/{name}@{one}"} for name, one in packages.items()]
    components.append({"name": "bash", "version": "5.2", "purl": "pkg:deb/debian/bash@5.2"})
    path = tmp_path / "sbom.json"
    path.write_text(json.dumps({"components": components}), encoding="utf-8")
    return path


def scan(sbom: Path, accepted: str, service: str) -> subprocess.CompletedProcess[str]:
    listing = sbom.with_name("accepted.toml")
    listing.write_text(accepted, encoding="utf-8")
    variables = {**os.environ, "VULNERABILITY_SERVICE": service}
    command = (str(ROOT / "scripts" / "scan"), str(sbom), str(listing))
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_nothing_known(sbom: Path) -> None:
    with vulnerability_feed({}) as service:
        ended = scan(sbom, "", service)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "scan: 3 packages, 0 known vulnerabilities, 0 of them not accepted"


def test_a_known_vulnerability_is_refused_with_its_remedy(sbom: Path) -> None:
    with vulnerability_feed(KNOWN) as service:
        ended = scan(sbom, "", service)
    assert ended.returncode == 1
    expected = "scan: NOT ACCEPTED: werkzeug 3.1.9: CVE-2026-1, GHSA-aaaa-bbbb-cccc; fixed in 9.0"
    assert expected in ended.stdout.splitlines()


@pytest.mark.parametrize("name", ["GHSA-aaaa-bbbb-cccc", "CVE-2026-1"])
def test_an_accepted_one_passes_under_each_of_its_names_and_gives_its_reason(sbom: Path, name: str) -> None:
    with vulnerability_feed(KNOWN) as service:
        ended = scan(sbom, ACCEPTED.format(name=name, reason="no server is started", until="2100-01-01"), service)
    assert ended.returncode == 0, ended.stdout
    assert "scan: accepted: no server is started: werkzeug 3.1.9" in ended.stdout


def test_acceptance_ends(sbom: Path) -> None:
    with vulnerability_feed(KNOWN) as service:
        ended = scan(sbom, ACCEPTED.format(name="CVE-2026-1", reason="not yet mended", until="2026-01-01"), service)
    assert ended.returncode == 1
    assert "was accepted until 2026-01-01, which has passed" in ended.stdout


def test_what_is_accepted_in_vain_is_named(sbom: Path) -> None:
    with vulnerability_feed({}) as service:
        ended = scan(sbom, ACCEPTED.format(name="CVE-2026-1", reason="not yet mended", until="2100-01-01"), service)
    assert ended.returncode == 0
    assert "CVE-2026-1 in werkzeug is accepted, but was not found" in ended.stdout


@pytest.mark.parametrize("reason", ["", "  "])
def test_acceptance_needs_a_reason(sbom: Path, reason: str) -> None:
    ended = scan(sbom, ACCEPTED.format(name="CVE-2026-1", reason=reason, until="2100-01-01"), "http://127.0.0.1:9")
    assert ended.returncode == 2
    assert "needs package, id, reason and until" in ended.stderr


def test_unreachable_service_fails_the_scan(sbom: Path) -> None:
    ended = scan(sbom, "", "http://127.0.0.1:9/v1/query")
    assert ended.returncode == 3
    assert ended.stderr.startswith("scan: http://127.0.0.1:9/v1/query returned no result:")


def test_the_projects_own_list_is_sound(tmp_path: Path, sbom: Path) -> None:
    own = (ROOT / "scripts" / "release" / "accepted-vulnerabilities.toml").read_text(encoding="utf-8")
    with vulnerability_feed({}) as service:
        assert scan(sbom, own, service).returncode == 0
