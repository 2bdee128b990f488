"""Identifies non-table files by their first bytes, regardless of the file name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

FIRST_BYTES = 512

_KIND_BY_SIGNATURE: Mapping[bytes, str] = {
    b"PK\x03\x04": "a zip archive or a spreadsheet (xlsx, ods)",
    b"PK\x05\x06": "an empty zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel 97-2003 spreadsheet (xls)",
    b"PAR1": "Parquet",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"ARROW1": "Arrow or Feather",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy array",
    b"{\\rtf": "an RTF document",
    b"version https://git-lfs": "a Git LFS pointer (run git lfs pull to download the file)",
}
_TEXT_LIKE_SIGNATURES = frozenset({b"PAR1", b"BZh", b"ORC", b"Rar!", b"ARROW1", b"SQLite format 3"})
"""Signatures that could also be the start of a text, unless control characters follow."""
_MARKUP = ("<!doctype html", "<html", "<?xml")


def non_table_kind(prefix: bytes, allowed: Collection[str] = ()) -> str | None:
    """Return the kind of a file whose first bytes rule out a text table, else `None`.

    Args:
        prefix: the first `FIRST_BYTES` bytes, or the whole file if shorter.
        allowed: kinds to accept, such as `Parquet`.
    """
    has_controls = any(byte < 9 or 13 < byte < 32 for byte in prefix)
    matches = (
        signature
        for signature in _KIND_BY_SIGNATURE
        if prefix.startswith(signature) and (has_controls or signature not in _TEXT_LIKE_SIGNATURES)
    )
    kind = _KIND_BY_SIGNATURE.get(next(matches, b""))
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower().decode("latin-1")
    if prefix[257:262] == b"ustar":
        kind = "a tar archive"
    if kind is None and text.startswith(_MARKUP):
        kind = "an HTML or XML page"
    return None if kind in allowed else kind


def rejection_reason(kind: str) -> str:
    """Return the reason for refusing a file of this kind, with the remedy; follows the file name."""
    return f"is {kind}, detected by its content; expected CSV, TSV, JSON Lines or Parquet"
