"""Can an archive write anywhere but into its own folder?"""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from finetune.errors import PlatformError, UserError
from finetune.models import archive
from finetune.models.archive import unpack


def member(name: str, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def write(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for info in members:
            opened.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def test_files_and_folders_are_unpacked(tmp_path: Path) -> None:
    folder = member("code", type=tarfile.DIRTYPE, mode=0o755)
    path = write(tmp_path / "model.tar.gz", member("./config.json", size=3), folder, member("code/a.py", size=2))
    unpacked = unpack(path, tmp_path / "scratch")
    assert unpacked.parent == tmp_path / "scratch"
    assert {file.relative_to(unpacked).as_posix() for file in unpacked.rglob("*")} == {
        "config.json",
        "code",
        "code/a.py",
    }
    assert (unpacked / "config.json").read_bytes() == b"xxx"


def test_two_archives_do_not_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("a"))
    assert unpack(path, tmp_path) != unpack(path, tmp_path)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a/../b"])
def test_a_member_outside_the_folder(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("good", size=1), member(name, size=1))
    with pytest.raises(UserError, match=rf"model\.tar\.gz tries to write outside its folder: member '{name}'"):
        unpack(path, tmp_path / "in" / "scratch")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "/etc"), (tarfile.SYMTYPE, "good"), (tarfile.LNKTYPE, "good"), (tarfile.FIFOTYPE, "")],
)
def test_a_member_that_is_no_file(kind: bytes, target: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("good", size=1), member("odd", type=kind, linkname=target))
    with pytest.raises(UserError, match="neither file nor folder: 'odd'"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize(
    "content", [b"", b"no archive at all", gzip.compress(b"no tar", mtime=0), b"\x1f\x8b\x08\x00broken"]
)
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.tar\.gz is no archive, or it is cut short"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_an_archive_cut_short(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", *(member(f"file{number}", size=5000) for number in range(20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="cut short"):
        unpack(path, tmp_path / "scratch")


def test_an_archive_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("a", size=100))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="CRC check failed"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize(("limit", "value"), [("MAX_MEMBERS", 2), ("MAX_BYTES", 250)])
def test_an_archive_that_is_too_large(limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, limit, value)
    path = write(tmp_path / "model.tar.gz", *(member(f"file{number}", size=100) for number in range(3)))
    with pytest.raises(UserError, match=r"too large: .* at 'file2'"):
        unpack(path, tmp_path / "scratch")


def test_a_disk_without_room(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    with gzip.open(path, "wb") as opened:
        opened.write(member("huge", size=2**35).tobuf())
    with pytest.raises(PlatformError, match="'huge' has 34359738368 bytes"):
        unpack_on_a_small_disk(path, tmp_path)


def unpack_on_a_small_disk(path: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _folder: type("Usage", (), {"free": 1000}))
        unpack(path, tmp_path / "scratch")


def test_a_scratch_that_cannot_be_made(tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("a"))
    (tmp_path / "scratch").write_text("a file")
    with pytest.raises(PlatformError, match=r"model\.tar\.gz cannot be unpacked into"):
        unpack(path, tmp_path / "scratch")
