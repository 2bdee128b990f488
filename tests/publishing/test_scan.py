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
    components = [
        {"name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"} for name, version in packages.items()
    ]
    components.append({"name": "bash", "version": "5.2", "purl": "pkg:deb/debian/bash@5.2"})
    path = tmp_path / "sbom.json"
    path.write_text(json.dumps({"components": components}), encoding="utf-8")
    return path


def scan(sbom: Path, accepted: str, service: str) -> subprocess.CompletedProcess[str]:
    accepted_file = sbom.with_name("accepted.toml")
    accepted_file.write_text(accepted, encoding="utf-8")
    variables = {**os.environ, "VULNERABILITY_SERVICE": service}
    command = (str(ROOT / "scripts" / "scan"), str(sbom), str(accepted_file))
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_no_known_vulnerability_passes(sbom: Path) -> None:
    with vulnerability_feed({}) as service:
        completed = scan(sbom, "", service)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.strip() == "scan: 3 packages, 0 known vulnerabilities, 0 of them not accepted"


def test_known_vulnerability_fails_with_fixed_version(sbom: Path) -> None:
    with vulnerability_feed(KNOWN) as service:
        completed = scan(sbom, "", service)
    assert completed.returncode == 1
    expected = "scan: NOT ACCEPTED: werkzeug 3.1.9: CVE-2026-1, GHSA-aaaa-bbbb-cccc; fixed in 9.0"
    assert expected in completed.stdout.splitlines()


@pytest.mark.parametrize("name", ["GHSA-aaaa-bbbb-cccc", "CVE-2026-1"])
def test_accepted_vulnerability_passes_under_each_id_with_reason(sbom: Path, name: str) -> None:
    with vulnerability_feed(KNOWN) as service:
        completed = scan(sbom, ACCEPTED.format(name=name, reason="no server is started", until="2100-01-01"), service)
    assert completed.returncode == 0, completed.stdout
    assert "scan: accepted: no server is started: werkzeug 3.1.9" in completed.stdout


def test_expired_acceptance_fails(sbom: Path) -> None:
    with vulnerability_feed(KNOWN) as service:
        completed = scan(sbom, ACCEPTED.format(name="CVE-2026-1", reason="not yet fixed", until="2026-01-01"), service)
    assert completed.returncode == 1
    assert "was accepted until 2026-01-01, which has passed" in completed.stdout


def test_unneeded_acceptance_is_reported(sbom: Path) -> None:
    with vulnerability_feed({}) as service:
        completed = scan(sbom, ACCEPTED.format(name="CVE-2026-1", reason="not yet fixed", until="2100-01-01"), service)
    assert completed.returncode == 0
    assert "CVE-2026-1 in werkzeug is accepted, but was not found" in completed.stdout


@pytest.mark.parametrize("reason", ["", "  "])
def test_acceptance_requires_reason(sbom: Path, reason: str) -> None:
    completed = scan(sbom, ACCEPTED.format(name="CVE-2026-1", reason=reason, until="2100-01-01"), "http://127.0.0.1:9")
    assert completed.returncode == 2
    assert "needs package, id, reason and until" in completed.stderr


def test_unreachable_service_fails_the_scan(sbom: Path) -> None:
    completed = scan(sbom, "", "http://127.0.0.1:9/v1/query")
    assert completed.returncode == 3
    assert completed.stderr.startswith("scan: http://127.0.0.1:9/v1/query returned no result:")


def test_own_list_of_accepted_vulnerabilities_is_valid(tmp_path: Path, sbom: Path) -> None:
    accepted = (ROOT / "scripts" / "release" / "accepted-vulnerabilities.toml").read_text(encoding="utf-8")
    with vulnerability_feed({}) as service:
        assert scan(sbom, accepted, service).returncode == 0
