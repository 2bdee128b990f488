"""All files of all archives are found, and damage is never skipped."""

from __future__ import annotations

import io
import tarfile
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.framing.tar_members import read_header, read_tar
from finetune.data.framing.window import DamagedStream, Window
from tests.support.stream_writers import split_chunks

TarFormat = Literal[0, 1, 2]
FILES = {"a.jpg": b"\xff\xd8" + bytes(700), "a.cls": b"1", "deep/" * 30 + "long name é.txt": b"text", "empty": b""}
FORMATS: list[tuple[TarFormat, bool]] = [
    (tarfile.GNU_FORMAT, True),
    (tarfile.GNU_FORMAT, False),
    (tarfile.PAX_FORMAT, True),
    (tarfile.PAX_FORMAT, False),
]


def archive(files: dict[str, bytes], tar_format: TarFormat = tarfile.GNU_FORMAT, padded: bool = True) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"comment": "über"} if tar_format == tarfile.PAX_FORMAT else {}
            tar.addfile(info, io.BytesIO(content))
        end = tar.offset
    return file.getvalue() if padded else file.getvalue()[:end] + bytes(1024)


def read(stream: bytes, sizes: list[int]) -> list[tuple[str, bytes]]:
    return [(name, bytes(content)) for name, content in read_tar(Window(split_chunks(stream, sizes)))]


@given(
    st.lists(st.sampled_from(FORMATS), min_size=1, max_size=4), st.lists(st.integers(1, 3000), min_size=1, max_size=4)
)
def test_all_files_of_all_archives_are_read(formats: list[tuple[TarFormat, bool]], sizes: list[int]) -> None:
    stream = b"".join(archive(FILES, tar_format, padded) for tar_format, padded in formats)
    assert read(stream, sizes) == list(FILES.items()) * len(formats)


@given(st.sampled_from(FORMATS[:3:2]), st.data())
def test_truncated_archive_raises(tar_format: tuple[TarFormat, bool], data: st.DataObject) -> None:
    stream = archive(FILES, *tar_format)
    end = len(archive(FILES, tar_format[0], padded=False)) - 1024
    length = data.draw(st.integers(1, end))
    with pytest.raises(DamagedStream, match="ends "):
        read(stream[:length], [1000])


@given(st.integers(0, 511), st.integers(0, 7))
def test_damaged_header_is_not_skipped(position: int, bit: int) -> None:
    stream = bytearray(archive(FILES))
    # After the headers of the folder and of a.jpg, and its two blocks.
    stream[4 * 512 + position] ^= 1 << bit
    try:
        files = read(bytes(stream), [700])
    except DamagedStream as error:
        assert "damaged tar header" in str(error) or "ends" in str(error)
    else:
        # Bytes that the checksum field itself ignores, such as its trailing blank.
        assert files == list(FILES.items())


@pytest.mark.parametrize("name", ["plain", "ünïcödé" * 6, "\udcff" * 99])
def test_header_checksum_is_verified(name: str) -> None:
    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
    assert read_header(bytes(block)).name == name
    block[120] ^= 1
    with pytest.raises(ValueError, match="bad checksum"):
        read_header(bytes(block))


def test_sparse_files_raise() -> None:
    info = tarfile.TarInfo("holes")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(DamagedStream, match="sparse file holes"):
        read(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024), [512])
