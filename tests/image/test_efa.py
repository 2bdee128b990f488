"""Libraries of an EFA installer are found by NCCL. The installer here has the form of AWS's, without its packages."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

from tests.image.containers import docker

INSTALLER = """#!/bin/bash
set -e
mkdir -p /opt/amazon/ofi-nccl/lib/x86_64-linux-gnu
cp libnccl-net.so /opt/amazon/ofi-nccl/lib/x86_64-linux-gnu/
echo "$@" >/opt/amazon/options
"""
INSTALL = "python3 -B /opt/finetune/container/install_efa.py file:///installer.tar.gz"
LOAD = """python3 -c 'import ctypes; ctypes.CDLL("libnccl-net.so")'"""


def write_installer(folder: Path) -> Path:
    """Write an archive in the layout of the EFA installer, with an empty NCCL plugin."""
    library, archive = folder / "libnccl-net.so", folder / "installer.tar.gz"
    empty = ["cc", "-shared", "-Wl,-soname,libnccl-net.so", "-o", str(library), "-x", "c", "/dev/null"]
    subprocess.run(empty, check=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(library, "aws-efa-installer/libnccl-net.so")
        script = tarfile.TarInfo("aws-efa-installer/efa_installer.sh")
        script.size = len(INSTALLER)
        tar.addfile(script, io.BytesIO(INSTALLER.encode()))
    return archive


def test_nccl_finds_the_plugin(image: str, tmp_path: Path) -> None:
    archive = write_installer(tmp_path)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    mount = ("--network", "none", "--volume", f"{archive}:/installer.tar.gz:ro")
    command = f"{INSTALL} {digest} && {LOAD} && cat /opt/amazon/options"
    log = docker("run", "--rm", *mount, image, "bash", "-c", command)
    assert "install_efa: /opt/amazon/ofi-nccl/lib/x86_64-linux-gnu/libnccl-net.so" in log
    assert log.splitlines()[-1] == "--yes --skip-kmod --skip-limit-conf --no-verify"
