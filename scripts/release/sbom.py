"""Writes the software bill of materials (SBOM) of an image in CycloneDX format: `scripts/sbom IMAGE FILE`.

Python packages are read by cyclonedx-py from their own metadata, which is extracted from the image; the packages of
the operating system come from its package manager. Packages that appear only in a lock file are not listed.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

# RECORD lists every file of a package, which is long and not needed here.
TAKE_METADATA = """
cd "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
find . -maxdepth 2 -path '*.dist-info/*' -type f ! -name RECORD -print0 | tar --null --create --files-from -
"""
LIST_SYSTEM = """
dpkg-query --show --showformat '${Package}\\t${Version}\\t${Architecture}\\n'
. /etc/os-release
echo "$VERSION_CODENAME"
"""


class SbomError(Exception):
    """The SBOM cannot be written; the message gives the reason."""


def sbom_of(image: str) -> dict[str, Any]:
    """The SBOM of an image.

    Raises:
        SbomError: the image cannot be run, or the SBOM would violate the CycloneDX schema.
    """
    identity = json.loads(_run(["docker", "image", "inspect", image]))[0]
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(_run(_inside(image, TAKE_METADATA)))) as archive:
            for member in archive:
                _write(archive, member, Path(folder))
        bom = _python_packages(Path(folder))
    labels = identity["Config"].get("Labels") or {}
    bom["metadata"]["component"] = {
        "type": "container",
        "bom-ref": image,
        "name": image,
        "version": labels.get("org.opencontainers.image.revision", identity["Id"]),
    }
    packages = _system_packages(_run(_inside(image, LIST_SYSTEM)).decode())
    bom["components"] = [*bom.get("components", []), *packages]
    bom["dependencies"] = [*bom.get("dependencies", []), *({"ref": package["bom-ref"]} for package in packages)]
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))
    if error is not None:
        raise SbomError(f"the SBOM is not valid CycloneDX: {error}")
    return bom


def _python_packages(folder: Path) -> dict[str, Any]:
    # Without its own site packages, this interpreter finds only the packages in the folder.
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "-S", "--output-reproducible", "--of", "JSON"]
    command += ["--no-validate"]  # the whole SBOM is validated
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    bom: dict[str, Any] = json.loads(_run([*command, str(program)]))
    return bom


def _system_packages(listing: str) -> list[dict[str, Any]]:
    *lines, release = listing.splitlines()
    packages = []
    for line in lines:
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}&distro={release}"
        packages.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return packages


def _inside(image: str, script: str) -> list[str]:
    return ["docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-euc", script]


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    content = archive.extractfile(member)
    package, _, name = member.name.removeprefix("./").partition("/")
    if content is None or not name or "/" in name or not package.endswith(".dist-info"):
        return
    (folder / package).mkdir(exist_ok=True)
    (folder / package / name).write_bytes(content.read())


def _run(command: list[str]) -> bytes:
    completed = subprocess.run(command, capture_output=True, check=False)
    if completed.returncode:
        raise SbomError(f"{' '.join(command[:3])} failed: {completed.stderr.decode(errors='replace').strip()}")
    return completed.stdout


def main() -> int:
    """Write the SBOM, and print its length."""
    if len(sys.argv) != 3:
        sys.stderr.write("sbom: expected an image and a file\n")
        return 2
    try:
        bom = sbom_of(sys.argv[1])
    except SbomError as error:
        sys.stderr.write(f"sbom: {error}\n")
        return 1
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")
    kinds = [component.get("purl", "").partition("/")[0] for component in bom["components"]]
    print(f"{target}: {kinds.count('pkg:pypi')} Python packages, {kinds.count('pkg:deb')} of Debian")
    return 0


if __name__ == "__main__":
    sys.exit(main())
