"""Refuses file names and links in a model folder that lead out of it."""

from __future__ import annotations

import os
from pathlib import Path

from finetune.errors import UserError

_MAX_NAME_BYTES = 255
_MAX_SHOWN = 100


def is_plain_name(name: object) -> bool:
    """Return whether `name` can name a file directly inside a folder: no path, no special name, no NUL."""
    return (
        isinstance(name, str)
        and name not in {"", ".", ".."}
        and not set(name) & {"/", "\\", "\0"}
        and len(os.fsencode(name.encode("utf-8", "replace"))) <= _MAX_NAME_BYTES
    )


def refuse_external_links(root: Path, location: str) -> None:
    """Refuse a folder with symbolic links, at any depth, that lead out of it; links to its own files are allowed.

    Raises:
        UserError: names the first such link.
    """
    resolved_root = root.resolve()
    for folder, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            if path.is_symlink() and not _points_inside(path, resolved_root):
                link = str(path.relative_to(root))
                raise UserError(
                    f"The {location} contains a link that points outside its folder: {link[:_MAX_SHOWN]!r}. Replace it"
                    " by a copy of the file."
                )


def _points_inside(link: Path, resolved_root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(resolved_root)
    except (OSError, RuntimeError):  # a cycle of links
        return False
