"""Archives cannot write outside their own folder."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Literal

import pytest

from finetune.errors import PlatformError, UserError
from finetune.models.weights import archive
from finetune.models.weights.archive import unpack


def member(name: str, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def write(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
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


def test_archives_are_unpacked_into_separate_folders(tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("a"))
    assert unpack(path, tmp_path) != unpack(path, tmp_path)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a/../b"])
def test_member_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("good", size=1), member(name, size=1))
    with pytest.raises(UserError, match=rf"model\.tar\.gz contains a member outside its folder: '{name}'"):
        unpack(path, tmp_path / "in" / "scratch")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "/etc"), (tarfile.SYMTYPE, "good"), (tarfile.LNKTYPE, "good"), (tarfile.FIFOTYPE, "")],
)
def test_special_member_is_refused(kind: bytes, target: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("good", size=1), member("odd", type=kind, linkname=target))
    with pytest.raises(UserError, match="neither file nor folder: 'odd'"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize(
    "content", [b"", b"no archive at all", gzip.compress(b"no tar", mtime=0), b"\x1f\x8b\x08\x00broken"]
)
def test_invalid_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.tar\.gz is not a valid archive, or is truncated"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_truncated_archive_is_refused(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", *(member(f"file{number}", size=5000) for number in range(20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="truncated"):
        unpack(path, tmp_path / "scratch")


def test_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("a", size=100))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="CRC check failed"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize(("limit", "value"), [("MAX_MEMBERS", 2), ("MAX_BYTES", 250)])
def test_oversized_archive_is_refused(limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, limit, value)
    path = write(tmp_path / "model.tar.gz", *(member(f"file{number}", size=100) for number in range(3)))
    with pytest.raises(UserError, match=r"too large: .* at 'file2'"):
        unpack(path, tmp_path / "scratch")


def test_full_disk_is_a_platform_error(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    with gzip.open(path, "wb") as tar:
        tar.write(member("huge", size=2**35).tobuf())
    with pytest.raises(PlatformError, match="'huge' has 34359738368 bytes"):
        unpack_on_a_small_disk(path, tmp_path)


def unpack_on_a_small_disk(path: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _folder: type("Usage", (), {"free": 1000}))
        unpack(path, tmp_path / "scratch")


def test_unwritable_scratch_folder_is_a_platform_error(tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member("a"))
    (tmp_path / "scratch").write_text("a file")
    with pytest.raises(PlatformError, match=r"model\.tar\.gz cannot be unpacked into"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize("key", ["path", "comment"])
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w"])
def test_large_header_is_refused_before_reading(mode: Literal["w:gz", "w:bz2", "w"], key: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    info = member("a")
    info.pax_headers = {key: "x" * (archive.MAX_HEADER_BYTES + 1)}
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(UserError, match=r"model\.tar\.gz claims a header of \d+ bytes"):
        unpack(path, tmp_path / "scratch")


def test_huge_header_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    with gzip.open(path, "wb") as tar:
        tar.write(member("huge", size=3 * 2**30, type=tarfile.XHDTYPE).tobuf())
    with pytest.raises(UserError, match="claims a header of 3221225472 bytes"):
        unpack(path, tmp_path / "scratch")


def test_total_header_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_HEADER_BYTES", 100_000)
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for number in range(20):
            info = member(f"file{number}")
            info.pax_headers = {"comment": "x" * 9_000}
            tar.addfile(info)
    with pytest.raises(UserError, match="more are allowed, of 100000 for all headers"):
        unpack(path, tmp_path / "scratch")


def test_endless_sparse_map_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_HEADER_BYTES", 100_000)
    info = member("sparse", size=2**18)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "sparse",
        "GNU.sparse.realsize": "9",
    }
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"99999999\n" + b"1\n" * 2**17))
    with pytest.raises(UserError, match="claims a header of"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize("name", ["a\0b", "\0"])
def test_member_name_with_a_null_byte_is_refused(name: str, tmp_path: Path) -> None:
    info = member("placeholder", size=1)
    info.pax_headers = {"path": name}
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError, match=r"with an invalid file name: '.*\\x00"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a", "a/b"), "'a/b': (File exists|Not a directory)"),
        (("a/b", "a"), "'a': Is a directory"),
        (("x" * 300,), "'x{100}': File name too long"),
        (("/".join(["deep" * 50] * 30),), "File name too long"),
    ],
)
def test_unwritable_member_names_are_user_errors(names: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", *(member(name, size=1) for name in names))
    with pytest.raises(UserError, match=rf"cannot be written under its name, .*{reason}"):
        unpack(path, tmp_path / "scratch")


def test_member_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.tar.gz", member(".", size=1))
    with pytest.raises(UserError, match=r"with an invalid file name: '\.'"):
        unpack(path, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is an HTML or XML page"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "is a Zstandard archive"),
    ],
)
def test_other_file_types_named_like_archives_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.tar\.gz {reason}"):
        unpack(path, tmp_path / "scratch")
