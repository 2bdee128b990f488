"""Unpacks an archive from a channel into a new folder, with bounded memory and without paths outside that folder."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from finetune.errors import PlatformError, UserError
from finetune.models.weights.file_types import ARCHIVES, WEIGHTS, describe_wrong_content, file_type

MAX_MEMBERS = 10_000
MAX_BYTES = 64 * 2**30
# tarfile reads a header of any claimed size at once and keeps the headers of all members in memory.
MAX_HEADER_BYTES = 2**20
MAX_TOTAL_HEADER_BYTES = 2**24
_BLOCK = 2**20
_MAX_SHOWN = 100
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")
# Errors about invalid or conflicting member names, which the user can fix.
_NAME_ERRNOS = frozenset({errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive by content or, so that a damaged one is reported as an archive, by name."""
    kind = file_type(path)
    return kind in ARCHIVES or (kind not in WEIGHTS and path.name.endswith(ARCHIVE_SUFFIXES))


def unpack(archive: Path, scratch: Path) -> Path:
    """Unpack `archive` into a new folder below `scratch`, in one pass.

    Returns:
        The new folder.

    Raises:
        UserError: the file is not an archive, is truncated or too large, or a member's path leads out of the folder.
        PlatformError: the contents cannot be written to the disk.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="model-", dir=scratch))
        if (reason := describe_wrong_content(archive)) is not None:
            raise UserError(reason)
        with _open_decompressed(archive) as stream:
            reader = _BoundedReader(stream, archive)
            with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r:") as model_folder:
                _unpack_members(model_folder, reader, archive, folder)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError(_unreadable_message(archive, error)) from error
    except OSError as error:
        if error.errno is None:
            raise UserError(_unreadable_message(archive, error)) from error
        raise PlatformError(f"{archive.name} cannot be unpacked into {scratch}: {error.strerror}.") from error
    return folder


def _open_decompressed(path: Path) -> IO[bytes]:
    kind = file_type(path)
    if kind == "gzip":
        return cast("IO[bytes]", gzip.GzipFile(path))
    if kind == "bzip2":
        return cast("IO[bytes]", bz2.BZ2File(path))
    return cast("IO[bytes]", lzma.LZMAFile(path)) if kind == "xz" else path.open("rb")


class _BoundedReader:
    """A stream that limits reads to the contents of members and a bounded number of header bytes."""

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self._stream = stream
        self._archive = archive
        self._headers = MAX_TOTAL_HEADER_BYTES
        self._contents: int | None = None

    @contextmanager
    def contents(self, size: int) -> Iterator[None]:
        """Allow reading up to `size` bytes of a member's contents, and no headers, within this context."""
        self._contents = size
        try:
            yield
        finally:
            self._contents = None

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, or fewer at the end.

        Raises:
            UserError: the archive claims larger headers than allowed.
        """
        allowed = min(MAX_HEADER_BYTES, self._headers) if self._contents is None else self._contents
        if not 0 <= size <= allowed:
            raise UserError(
                f"{self._archive.name} claims a header of {size} bytes, but at most {allowed} more are allowed, of"
                f" {MAX_TOTAL_HEADER_BYTES} for all headers ({MAX_HEADER_BYTES} for each). Pack the model"
                " again, as `tar -czf model.tar.gz -C <folder> .` does."
            )
        if self._contents is None:
            self._headers -= size
        else:
            self._contents -= size
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to `offset`."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the uncompressed archive, in bytes."""
        return self._stream.tell()


def _unpack_members(model_folder: tarfile.TarFile, reader: _BoundedReader, archive: Path, folder: Path) -> None:
    total = 0
    for count, member in enumerate(model_folder, start=1):
        total += member.size
        _check_member(member, archive)
        if count > MAX_MEMBERS or total > MAX_BYTES:
            raise UserError(
                f"{archive.name} is too large: more than {MAX_MEMBERS} members or {MAX_BYTES >> 30} GiB at"
                f" {_short_name(member)}. Pack only the model."
            )
        if member.size > shutil.disk_usage(folder).free:
            raise PlatformError(
                f"{archive.name} cannot be unpacked: {_short_name(member)} has {member.size} bytes, more than the disk"
                " has room for. Request a larger volume."
            )
        try:
            with reader.contents(member.size):
                _write_member(model_folder, member, folder)
        except OSError as error:
            if error.errno in _NAME_ERRNOS:
                raise UserError(
                    f"{archive.name} contains a member that cannot be written under its name, {_short_name(member)}:"
                    f" {error.strerror}. Pack the model again, with short and unique names."
                ) from error
            raise
    _read_remainder(reader)


def _write_member(model_folder: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one checked member; `extract` has filters only from Python 3.11.4 on, and Debian 12 has 3.11.2."""
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = model_folder.extractfile(member)
    if content is not None:
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file, _BLOCK)


def _read_remainder(reader: _BoundedReader) -> None:
    """Read the rest of the stream after the last member, so that gzip verifies its checksum at the end."""
    with reader.contents(MAX_BYTES):
        for _ in range(MAX_BYTES // _BLOCK):
            if not reader.read(_BLOCK):
                return


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    if "\0" in member.name or (not path.parts and not member.isdir()):
        raise UserError(
            f"{archive.name} contains a member with an invalid file name: {_short_name(member)}. Pack the model again."
        )
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{archive.name} contains a member outside its folder: {_short_name(member)}."
            " Pack the model again, with paths relative to its folder."
        )
    if not (member.isreg() or member.isdir()):
        raise UserError(
            f"{archive.name} contains a member that is neither file nor folder: {_short_name(member)}."
            " Pack the model again, with links followed (tar --dereference)."
        )


def _short_name(member: tarfile.TarInfo) -> str:
    return repr(member.name[:_MAX_SHOWN])


def _unreadable_message(archive: Path, error: Exception) -> str:
    # The lines after the first list the compressions that were tried.
    reason = str(error).partition("\n")[0].rstrip(":")
    return (
        f"{archive.name} is not a valid archive, or is truncated: {reason}. Provide a tar file, as `tar -czf"
        " model.tar.gz -C <folder> .` writes it."
    )
