"""What does a job find that an earlier one computed on the same machine, and what does it leave for a later one?

The platform keeps a folder over the jobs of a managed warm pool. Nothing in it is trusted: an entry is a safetensors
file and a manifest with its size and hash, under a name that says all that decides its bits. See docs/warm-pools.md.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from finetune.checkpoint.tensor_file import hash_file, read_tensors, write_tensors

logger = logging.getLogger(__name__)

FOLDER = "finetune-features"
_TENSORS, _MANIFEST = "features.safetensors", "manifest.json"
_ENTRY = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"\.[0-9a-f]{64}\.\d+\.partial")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class WarmPool:
    """Entries by key, the least recently used ones of which give way to new ones.

    Attributes:
        folder: that the platform keeps; `None` where it keeps none, and then nothing is found or left.
        most_bytes: that all entries may take together, where the user says so; by default half of what is free.
    """

    folder: Path | None
    most_bytes: int | None = None

    @property
    def is_there(self) -> bool:
        """Whether anything can be found or left."""
        try:
            return self.folder is not None and self.most_bytes != 0 and self.folder.is_dir()
        except OSError:  # it lies where this user may not look
            return False

    def find(self, key: str) -> dict[str, Tensor] | None:
        """The tensors that were left under a key; `None` where there are none, or not those that were left.

        Args:
            key: 64 hexadecimal digits.
        """
        if not self.is_there:
            return None
        try:
            if not (self._entry(key) / _MANIFEST).is_file():
                return None
            tensors = self._read(key)
            os.utime(self._entry(key))
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            logger.warning("What an earlier job left in %s is not used: %s", self._entry(key), error)
            return None
        return tensors

    def leave(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Leave tensors for a later job, in the place of earlier ones, whole or not at all; returns whether."""
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if not self.is_there:
            return False
        partial = self._home / f".{key}.{os.getpid()}.partial"
        try:
            self._home.mkdir(exist_ok=True)
            if not self._make_room(key, needed):
                return False
            partial.mkdir()
            entry = write_tensors(partial / _TENSORS, tensors)
            manifest = {"format": _FORMAT, "key": key, "size": entry.size, "sha256": entry.sha256}
            (partial / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            shutil.rmtree(self._entry(key), ignore_errors=True)
            partial.rename(self._entry(key))
        except OSError as error:
            logger.warning("Nothing is left for a later job in %s: %s", self.folder, error)
            shutil.rmtree(partial, ignore_errors=True)
            return False
        return True

    @property
    def _home(self) -> Path:
        assert self.folder is not None  # noqa: S101  # asked for only where there is one
        return self.folder / FOLDER

    def _entry(self, key: str) -> Path:
        return self._home / key

    def _read(self, key: str) -> dict[str, Tensor]:
        """The tensors of an entry.

        Raises:
            ValueError: it is damaged, or one of somebody else.
            OSError: it cannot be read.
        """
        manifest = json.loads((self._entry(key) / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("key")) != (_FORMAT, key):
            raise ValueError("its manifest is not ours")
        path = self._entry(key) / _TENSORS
        if path.stat().st_size != manifest.get("size") or hash_file(path) != manifest.get("sha256"):
            raise ValueError("its content is not what was left")
        return read_tensors(path)

    def _make_room(self, key: str, needed: int) -> bool:
        """Remove what was cut short, and the least recently used entries until `needed` bytes fit; returns whether."""
        for child in self._home.iterdir():
            if _PARTIAL.fullmatch(child.name):
                shutil.rmtree(child, ignore_errors=True)
        entries = [child for child in self._home.iterdir() if _ENTRY.fullmatch(child.name) and child.name != key]
        sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in entries}
        free = shutil.disk_usage(self._home).free
        limit = (free + sum(sizes.values())) // 2
        limit = limit if self.most_bytes is None else min(limit, self.most_bytes)
        if needed > limit:
            logger.info("%.2f GB are not left for a later job: %.2f GB may be.", needed / 1e9, limit / 1e9)
            return False
        for entry in sorted(entries, key=lambda one: one.stat().st_mtime_ns):
            if needed + sum(sizes.values()) <= limit:
                break
            shutil.rmtree(entry, ignore_errors=True)
            del sizes[entry]
        return True
