"""How an archive from a channel is unpacked without letting it write anywhere but into its own folder."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from finetune.errors import PlatformError, UserError

MAX_MEMBERS = 10_000
MAX_BYTES = 64 * 2**30
_BLOCK = 2**20
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


def is_archive(path: Path) -> bool:
    """Whether the name of `path` says that it is an archive."""
    return path.name.endswith(ARCHIVE_SUFFIXES)


def unpack(archive: Path, scratch: Path) -> Path:
    """Unpack `archive` into a new folder below `scratch`, in one pass.

    Returns:
        the new folder.

    Raises:
        UserError: it is no archive, is cut short, is too large, or a member would leave the folder.
        PlatformError: the disk does not take its contents.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="model-", dir=scratch))
        with tarfile.open(archive, "r:*") as opened:
            _unpack_members(opened, archive, folder)
    except (tarfile.TarError, zlib.error, LZMAError, EOFError) as error:
        raise UserError(_no_archive(archive, error)) from error
    except OSError as error:
        if error.errno is None:
            raise UserError(_no_archive(archive, error)) from error
        raise PlatformError(f"{archive.name} cannot be unpacked into {scratch}: {error.strerror}.") from error
    return folder


def _unpack_members(opened: tarfile.TarFile, archive: Path, folder: Path) -> None:
    total = 0
    for count, member in enumerate(opened, start=1):
        total += member.size
        _check_member(member, archive)
        if count > MAX_MEMBERS or total > MAX_BYTES:
            raise UserError(
                f"{archive.name} is too large: more than {MAX_MEMBERS} members or {MAX_BYTES >> 30} GiB at"
                f" {member.name!r}. Pack only the model."
            )
        if member.size > shutil.disk_usage(folder).free:
            raise PlatformError(
                f"{archive.name} cannot be unpacked: {member.name!r} has {member.size} bytes, more than the disk has"
                " room for. Ask for a larger volume."
            )
        _write(opened, member, folder)
    _read_to_the_end(opened)


def _write(opened: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one checked member. Python 3.11 has no filters for `extract` before 3.11.4, and Debian 12 has 3.11.2."""
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = opened.extractfile(member)
    if content is not None:
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file, _BLOCK)


def _read_to_the_end(opened: tarfile.TarFile) -> None:
    """Read what follows the last member, because gzip's checksum of everything comes at the very end."""
    for _ in range(MAX_BYTES // _BLOCK):
        if opened.fileobj is None or not opened.fileobj.read(_BLOCK):
            return


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{archive.name} tries to write outside its folder: member {member.name!r}."
            " Pack the model again, with paths relative to its folder."
        )
    if not (member.isreg() or member.isdir()):
        raise UserError(
            f"{archive.name} holds a member that is neither file nor folder: {member.name!r}."
            " Pack the model again, with links followed (tar --dereference)."
        )


def _no_archive(archive: Path, error: Exception) -> str:
    # What follows the first line is the list of compressions that were tried.
    reason = str(error).partition("\n")[0].rstrip(":")
    return (
        f"{archive.name} is no archive, or it is cut short: {reason}. Give a tar file, as `tar -czf model.tar.gz -C"
        " <folder> .` writes it."
    )
