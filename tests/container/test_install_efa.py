"""The EFA installer is verified before it is run."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from container import install_efa


def write_archive(folder: Path, script: str) -> Path:
    """Write an archive with one script."""
    file = folder / "script"
    file.write_text("#!/bin/bash\n", "utf-8")
    archive = folder / "installer.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(file, script)
    return archive


def test_archive_with_another_digest_is_refused(tmp_path: Path) -> None:
    url = write_archive(tmp_path, "aws-efa-installer/efa_installer.sh").as_uri()
    with pytest.raises(SystemExit, match=r"has SHA-256 [0-9a-f]{64}, but EFA_INSTALLER_SHA256 is ''"):
        install_efa.main([url, ""])


def test_archive_without_installer_is_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path, "other/readme.txt")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(SystemExit, match="no folder with efa_installer"):
        install_efa.main([archive.as_uri(), digest])


def test_image_without_efa_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_efa, "register_libraries", lambda: pytest.fail("installed without a URL"))
    install_efa.main(["", ""])
