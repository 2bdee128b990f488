"""Checks the Python packages of an SBOM for known vulnerabilities: `scripts/scan SBOM [ACCEPTED]`.

pip-audit queries a service with OSV's API, `VULNERABILITY_SERVICE` or OSV itself. Every vulnerability found must be in
the list of accepted ones, with a reason and an expiry date. A package that was not checked counts as a failure. Exit
code 1: vulnerabilities found; 2: the list is invalid; 3: not every package could be checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

SERVICE = "https://api.osv.dev/v1/query"
ACCEPTED = Path(__file__).with_name("accepted-vulnerabilities.toml")


class ScanError(Exception):
    """The scan has no result; the message gives the reason."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Finding:
    """A vulnerability of a package, with all its names."""

    package: str
    version: str
    names: frozenset[str]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        remedy = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed version"
        return f"{self.package} {self.version}: {', '.join(sorted(self.names))}; {remedy}"


def read_accepted(path: Path, today: date) -> dict[tuple[str, str], str]:
    """The vulnerabilities accepted today: the reason by package and vulnerability.

    Raises:
        ScanError: an entry lacks a field, or its reason is empty.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("accepted", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ScanError(f"{path} cannot be read: {error}", 2) from error
    accepted = {}
    for entry in entries:
        package, name, reason = (str(entry.get(key, "")).strip() for key in ("package", "id", "reason"))
        until = entry.get("until")
        if not (package and name and reason) or not isinstance(until, date):
            raise ScanError(f"{path}: an entry needs package, id, reason and until (a day), unlike {entry}", 2)
        if today <= until:
            accepted[package, name] = reason
        else:
            print(f"scan: {name} in {package} was accepted until {until}, which has passed")
    return accepted


def packages_of(sbom: Path) -> dict[str, str]:
    """Version by name of the Python packages in an SBOM.

    Raises:
        ScanError: it cannot be read, or lists none.
    """
    try:
        components = json.loads(sbom.read_text(encoding="utf-8")).get("components", [])
    except (OSError, ValueError) as error:
        raise ScanError(f"{sbom} cannot be read: {error}", 2) from error
    packages = {one["name"]: one["version"] for one in components if one.get("purl", "").startswith("pkg:pypi/")}
    if not packages:
        raise ScanError(f"{sbom} contains no Python packages", 2)
    return packages


def audit(packages: Mapping[str, str], service: str) -> list[Finding]:
    """Query a service for every package.

    Raises:
        ScanError: it cannot be reached, or has not answered for every package.
    """
    # Local versions such as 2.11.0+cu130 are unknown to the service.
    versions = {name.lower(): version.partition("+")[0] for name, version in packages.items()}
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "packages.txt"
        listing.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(listing), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--osv-url", service, "--format", "json", "--cache-dir", folder]
        completed = subprocess.run(
            [*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False, timeout=900
        )
    try:
        answers = json.loads(completed.stdout)["dependencies"]
    except (ValueError, LookupError) as error:
        cause = (completed.stderr.strip().splitlines() or ["pip-audit printed nothing"])[-1]
        raise ScanError(f"{service} returned no result: {cause}", 3) from error
    missing = len(versions) - sum("vulns" in answer for answer in answers)
    if missing:
        raise ScanError(f"{service} was not queried for {missing} of {len(versions)} packages", 3)
    return [
        Finding(answer["name"], answer["version"], frozenset({one["id"], *one["aliases"]}), tuple(one["fix_versions"]))
        for answer in answers
        for one in answer["vulns"]
    ]


def scan(sbom: Path, accepted: Path, service: str, today: date) -> int:
    """Scan, print the result, and return the exit code.

    Raises:
        ScanError: there is no result.
    """
    reasons, packages = read_accepted(accepted, today), packages_of(sbom)
    refused, used = 0, set()
    findings = audit(packages, service)
    for finding in findings:
        keys = {(finding.package, name) for name in finding.names} & reasons.keys()
        used |= keys
        refused += not keys
        print(f"scan: {f'accepted: {reasons[min(keys)]}' if keys else 'NOT ACCEPTED'}: {finding}")
    for package, name in sorted(reasons.keys() - used):
        print(f"scan: {name} in {package} is accepted, but was not found: remove it from {accepted.name}")
    print(f"scan: {len(packages)} packages, {len(findings)} known vulnerabilities, {refused} of them not accepted")
    return 1 if refused else 0


def main() -> int:
    """Read the command line and scan."""
    if len(sys.argv) not in {2, 3}:
        sys.stderr.write("scan: expected an SBOM, and optionally the list of accepted vulnerabilities\n")
        return 2
    accepted = Path(sys.argv[2]) if len(sys.argv) == 3 else ACCEPTED
    try:
        service = os.environ.get("VULNERABILITY_SERVICE") or SERVICE
        return scan(Path(sys.argv[1]), accepted, service, datetime.now(tz=UTC).date())
    except ScanError as error:
        sys.stderr.write(f"scan: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
