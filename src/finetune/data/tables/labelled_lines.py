"""Finds lines with several labels in files of BlazingText."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import islice
from pathlib import Path

from finetune.data.tables.delimited import LABEL_PREFIX

MAX_LINES = 10_000
"""Number of lines of each file that are examined."""

_SEVERAL = re.compile(rb"(?:^|\s)%(p)b\S+(?:\s.*)?\s%(p)b\S" % {b"p": LABEL_PREFIX.encode()})


def has_several_labels(folder: Path) -> bool:
    """Return whether a line among the first of any file has several labels."""
    for path in sorted(folder.iterdir()):
        with suppress(OSError), path.open("rb") as file:
            if any(_SEVERAL.search(line) for line in islice(file, MAX_LINES) if line.startswith(LABEL_PREFIX.encode())):
                return True
    return False
