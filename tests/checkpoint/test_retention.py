"""Old checkpoints are deleted only after a newer one is where a restart would find it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finetune.checkpoint import CheckpointStore, take_snapshot
from tests.checkpoint.states import checkpoint_info, make_parts


def save(store: CheckpointStore, step: int, *, best: bool = False) -> Path:
    return store.folder / str(store.write(take_snapshot(make_parts(step)), checkpoint_info(step, best=best)))


def steps(store: CheckpointStore) -> list[int]:
    return [name.step for name in store.names()]


def mark_uploaded(checkpoint: Path) -> None:
    for file in list(checkpoint.iterdir()):
        (checkpoint / f"{file.name}.sagemaker-uploaded").touch()


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 8):
        save(store, step, best=step in {2, 4})
    assert steps(store) == [7, 6, 4]


def test_old_checkpoint_is_removed_after_newer_is_uploaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 1)
    mark_uploaded(first)
    second = save(store, 2)
    assert steps(store) == [2, 1]
    (second / "model.safetensors.sagemaker-uploading").touch()
    save(store, 3)
    assert steps(store) == [3, 2, 1]
    (second / "model.safetensors.sagemaker-uploading").unlink()
    mark_uploaded(second)
    save(store, 4)
    assert steps(store) == [4, 3, 2]


def test_checkpoints_restored_by_agent_are_removed_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "local", keep=2)
    for step in (1, 2, 3):
        shutil.copytree(save(store, step), tmp_path / "s3" / str(store.names()[0]))
    shutil.rmtree(tmp_path / "local")
    shutil.copytree(tmp_path / "s3", tmp_path / "local")
    restarted = CheckpointStore(tmp_path / "local", keep=2)
    assert steps(restarted) == [3, 2, 1]
    save(restarted, 4)
    assert steps(restarted) == [4, 3]


def test_incomplete_checkpoints_are_removed_but_not_later_versions(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    incomplete = save(store, 1)
    later = tmp_path / "step-000000002-000002"
    shutil.copytree(incomplete, later)
    (incomplete / "manifest.json").unlink()
    (later / "manifest.json").write_text('{"body": {"format": "finetune-checkpoint", "version": 2}}')
    save(store, 3)
    assert steps(store) == [3, 2]


def test_skipped_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    damaged = save(store, 2)
    values = (damaged / "progress.json").read_bytes()
    (damaged / "progress.json").write_bytes(b" " * len(values))
    restarted = CheckpointStore(tmp_path, keep=2)
    restarted.restore()
    save(restarted, 3)
    assert steps(restarted) == [3, 1]


def test_truncated_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    (save(store, 2) / "model.safetensors").write_bytes(b"")
    save(store, 3)
    assert steps(store) == [3, 1]


def test_manifest_is_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 1)
    order: list[str] = []
    original_unlink = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        order.append(path.name)
        original_unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    save(store, 2)
    assert not first.exists()
    assert order[0] == "manifest.json"
    assert len(order) == 6


def test_unremovable_checkpoint_does_not_block_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 1)
    (first / "somebody's folder").mkdir()
    save(store, 2)
    assert "Could not remove checkpoint step-000000001-000001" in caplog.text
    loaded = store.newest_complete()
    assert loaded is not None
    assert loaded.manifest.info.step == 2
    assert [path.name for path in first.iterdir()] == ["somebody's folder"]
