"""Atomic file writes: a file appears under its name only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def atomic_text_file(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file for writing, and rename it to `path` when the block is done.

    The partial file of a failed block is removed, which frees space on a full volume.

    Args:
        path: the file; its folder exists.

    Raises:
        OSError: the file cannot be written; `filename` is always set.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
            file.flush()
            # Some file systems report a full volume only here.
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 text file, or leave the previous content unchanged on failure.

    Raises:
        OSError: the file cannot be written; `filename` is always set.
    """
    with atomic_text_file(path) as file:
        file.write(text)
