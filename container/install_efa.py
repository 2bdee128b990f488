"""Installs libfabric and the NCCL plugin for the Elastic Fabric Adapter at image build time: install_efa URL SHA256.

The URL is that of an archive of the EFA installer; the kernel driver is that of the host.
Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa-start-nccl.html
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

PREFIX = Path("/opt/amazon")
LINKER_CONFIGURATION = Path("/etc/ld.so.conf.d/efa.conf")
PACKAGE_LISTS = Path("/var/lib/apt/lists")
OPTIONS = ("--yes", "--skip-kmod", "--skip-limit-conf", "--no-verify")
"""No kernel module, no limits and no test of the adapter: these belong to the host."""


def download(url: str, sha256: str, target: Path) -> None:
    """Download the archive.

    Raises:
        SystemExit: Its SHA-256 differs from `sha256`.
    """
    with urllib.request.urlopen(url) as response, target.open("wb") as file:  # noqa: S310  # the URL of the builder
        shutil.copyfileobj(response, file)
    with target.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256.lower():
        raise SystemExit(f"install_efa: {url} has SHA-256 {actual}, but EFA_INSTALLER_SHA256 is {sha256!r}.")


def run_installer(archive: Path, folder: Path) -> None:
    """Unpack the archive into `folder` and run its installer.

    Raises:
        SystemExit: The archive has no installer.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(folder)  # noqa: S202  # of a known digest; Python 3.11.2 of Debian 12 has no filters
    script = next(folder.glob("*/efa_installer.sh"), None)
    if script is None:
        raise SystemExit("install_efa: the archive contains no folder with efa_installer.sh.")
    # The installer's packages depend on packages of the distribution.
    subprocess.run(["apt-get", "update", "--quiet"], check=True)  # noqa: S607  # of the base image
    subprocess.run(["bash", script.name, *OPTIONS], cwd=script.parent, check=True)  # noqa: S603, S607  # see above
    for lists in PACKAGE_LISTS.iterdir():
        shutil.rmtree(lists) if lists.is_dir() else lists.unlink()


def register_libraries() -> None:
    """Let the dynamic linker find all libraries below `PREFIX`: NCCL loads its plugin by name.

    Raises:
        SystemExit: There is no NCCL plugin.
    """
    plugins = sorted(PREFIX.glob("**/libnccl-net*.so"))
    if not plugins:
        raise SystemExit(f"install_efa: {PREFIX} has no NCCL plugin (libnccl-net*.so): use a newer EFA installer.")
    folders = sorted({str(library.parent) for library in PREFIX.glob("**/lib*.so*")})
    LINKER_CONFIGURATION.write_text("".join(f"{folder}\n" for folder in folders), "utf-8")
    subprocess.run(["ldconfig"], check=True)  # noqa: S607  # of the base image
    size = sum(file.lstat().st_size for file in PREFIX.glob("**/*") if file.is_file())
    sys.stdout.write(f"install_efa: {plugins[0]}; {PREFIX} has {size / 1e6:.0f} MB\n")


def main(arguments: list[str]) -> None:
    """Install, or do nothing if no URL is given."""
    url, sha256 = arguments
    if not url:
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "installer.tar.gz")
        download(url, sha256, archive)
        run_installer(archive, Path(scratch))
    register_libraries()


if __name__ == "__main__":
    main(sys.argv[1:])
