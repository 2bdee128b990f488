"""Feature cache shared by the jobs of a managed warm pool.

The platform keeps a folder across the jobs of a warm pool. Its contents are not trusted: an entry consists of a
safetensors file and a manifest with its size and hash, and its key covers everything that determines its bits. See
docs/warm-pools.md.
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
    """Cache entries by key; the least recently used entries are evicted.

    Attributes:
        folder: folder kept by the platform; `None` disables the cache.
        max_bytes: size limit of all entries together, if set by the user; defaults to half of the free space.
        read_only: whether `save` does nothing.
    """

    folder: Path | None
    max_bytes: int | None = None
    read_only: bool = False

    @property
    def is_available(self) -> bool:
        """Whether the cache is available."""
        try:
            return self.folder is not None and self.max_bytes != 0 and self.folder.is_dir()
        except OSError:  # no permission to access the folder
            return False

    def find(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors saved under a key; `None` if there are none or they are damaged.

        Args:
            key: 64 hexadecimal digits.
        """
        if not self.is_available:
            return None
        try:
            if not (self._entry(key) / _MANIFEST).is_file():
                return None
            tensors = self._read(key)
            os.utime(self._entry(key))
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            logger.warning("Ignoring cached features in %s: %s", self._entry(key), error)
            return None
        return tensors

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Save tensors for later jobs, atomically, evicting older entries; return whether they were saved."""
        needed_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self.read_only or not self.is_available:
            return False
        partial = self._root / f".{key}.{os.getpid()}.partial"
        try:
            self._root.mkdir(exist_ok=True)
            if not self._evict(key, needed_bytes):
                return False
            partial.mkdir()
            entry = write_tensors(partial / _TENSORS, tensors)
            manifest = {"format": _FORMAT, "key": key, "size": entry.size, "sha256": entry.sha256}
            (partial / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            shutil.rmtree(self._entry(key), ignore_errors=True)
            partial.rename(self._entry(key))
        except OSError as error:
            logger.warning("Cannot save features in %s: %s", self.folder, error)
            shutil.rmtree(partial, ignore_errors=True)
            return False
        return True

    @property
    def _root(self) -> Path:
        assert self.folder is not None  # noqa: S101  # used only if there is a folder
        return self.folder / FOLDER

    def _entry(self, key: str) -> Path:
        return self._root / key

    def _read(self, key: str) -> dict[str, Tensor]:
        """Read the tensors of an entry.

        Raises:
            ValueError: the entry is damaged or has an unexpected manifest.
            OSError: the entry cannot be read.
        """
        manifest = json.loads((self._entry(key) / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("key")) != (_FORMAT, key):
            raise ValueError("unexpected manifest")
        path = self._entry(key) / _TENSORS
        if path.stat().st_size != manifest.get("size") or hash_file(path) != manifest.get("sha256"):
            raise ValueError("size or hash differs from the manifest")
        return read_tensors(path)

    def _evict(self, key: str, needed_bytes: int) -> bool:
        """Remove partial and the least recently used entries until `needed` bytes fit; return whether they fit."""
        for child in self._root.iterdir():
            if _PARTIAL.fullmatch(child.name):
                shutil.rmtree(child, ignore_errors=True)
        entries = [child for child in self._root.iterdir() if _ENTRY.fullmatch(child.name) and child.name != key]
        sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in entries}
        free = shutil.disk_usage(self._root).free
        limit = (free + sum(sizes.values())) // 2
        limit = limit if self.max_bytes is None else min(limit, self.max_bytes)
        if needed_bytes > limit:
            logger.info(
                "Not caching features for later jobs: %.2f GB exceeds the limit of %.2f GB.",
                needed_bytes / 1e9,
                limit / 1e9,
            )
            return False
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime_ns):
            if needed_bytes + sum(sizes.values()) <= limit:
                break
            shutil.rmtree(entry, ignore_errors=True)
            del sizes[entry]
        return True
