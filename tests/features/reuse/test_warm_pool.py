"""Features saved by one job are found complete and unchanged by the next, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.features.reuse.warm_pool import FOLDER, WarmPool

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64
TENSORS = {"rows/x": torch.arange(1000, dtype=torch.float32), "lengths": torch.ones(5, dtype=torch.int64)}
MAX_BYTES = 10**9


def same(tensors: dict[str, Tensor] | None) -> bool:
    return (
        tensors is not None and tensors.keys() == TENSORS.keys() and all(tensors[n].equal(TENSORS[n]) for n in tensors)
    )


def entry(folder: Path, key: str = KEY) -> Path:
    return folder / FOLDER / key


def test_saved_entry_is_found_only_under_its_key(tmp_path: Path) -> None:
    pool = WarmPool(tmp_path, MAX_BYTES)
    assert pool.find(KEY) is None
    assert pool.save(KEY, TENSORS)
    assert same(WarmPool(tmp_path, MAX_BYTES).find(KEY))
    assert pool.find(OTHER) is None


@pytest.mark.parametrize("folder", [None, Path("/nowhere/at/all")])
def test_pool_without_folder_is_unavailable(folder: Path | None) -> None:
    pool = WarmPool(folder)
    assert not pool.is_available
    assert not pool.save(KEY, TENSORS)
    assert pool.find(KEY) is None


def flip(entry_folder: Path) -> None:
    path = entry_folder / "features.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def manifest(**changes: object) -> Callable[[Path], None]:
    def change(entry_folder: Path) -> None:
        path = entry_folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def truncate(name: str, length: int) -> Callable[[Path], None]:
    return lambda entry_folder: os.truncate(entry_folder / name, length)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit of the features is another": flip,
    "the features are truncated": truncate("features.safetensors", 100),
    "the features are gone": lambda entry_folder: (entry_folder / "features.safetensors").unlink(),
    "the manifest is truncated": truncate("manifest.json", 20),
    "the manifest is empty": truncate("manifest.json", 0),
    "the manifest is of another entry": manifest(key=OTHER),
    "the manifest is of another format": manifest(format=2),
    "the hash is missing": manifest(sha256=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_foreign_entry_is_ignored_and_replaced(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = WarmPool(tmp_path, MAX_BYTES)
    pool.save(KEY, TENSORS)
    DAMAGES[damage](entry(tmp_path))
    assert pool.find(KEY) is None
    assert "Ignoring cached features" in caplog.text
    assert pool.save(KEY, TENSORS)
    assert same(pool.find(KEY))


def test_partial_entry_is_ignored_and_removed(tmp_path: Path) -> None:
    pool = WarmPool(tmp_path, MAX_BYTES)
    partial = tmp_path / FOLDER / f".{KEY}.123.partial"
    partial.mkdir(parents=True)
    (partial / "features.safetensors").write_bytes(b"half")
    assert pool.find(KEY) is None
    pool.save(OTHER, TENSORS)
    assert not partial.exists()


def test_least_recently_used_entry_is_evicted_and_other_files_stay(tmp_path: Path) -> None:
    size = sum(tensor.nbytes for tensor in TENSORS.values())
    pool = WarmPool(tmp_path, 3 * size)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "somebody's").write_text("x")
    for number, key in enumerate((KEY, OTHER)):
        pool.save(key, TENSORS)
        os.utime(entry(tmp_path, key), (number, number))
    assert same(pool.find(KEY))
    assert pool.save(THIRD, TENSORS)
    assert (pool.find(OTHER), same(pool.find(KEY)), same(pool.find(THIRD))) == (None, True, True)
    assert (tmp_path / FOLDER / "somebody's").exists()


def test_too_large_entry_is_not_saved_and_evicts_nothing(tmp_path: Path) -> None:
    WarmPool(tmp_path, MAX_BYTES).save(KEY, TENSORS)
    pool = WarmPool(tmp_path, 1000)
    assert not pool.save(OTHER, TENSORS)
    assert same(pool.find(KEY))


def test_unwritable_folder_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).write_text("a file in the way")
    assert not WarmPool(tmp_path, MAX_BYTES).save(KEY, TENSORS)
    assert "Cannot save features" in caplog.text


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format":' * 100_000])
def test_deeply_nested_manifest_is_ignored(tmp_path: Path, content: str) -> None:
    pool = WarmPool(tmp_path, MAX_BYTES)
    assert pool.save(KEY, TENSORS)
    (entry(tmp_path) / "manifest.json").write_text(content)
    assert pool.find(KEY) is None


def test_missing_permissions_disable_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    pool = WarmPool(tmp_path, MAX_BYTES)
    assert pool.save(KEY, TENSORS)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", refuse)
        assert pool.find(KEY) is None
    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_dir", refuse)
        assert not pool.is_available
        assert pool.find(KEY) is None
        assert not pool.save(OTHER, TENSORS)
