"""Old checkpoints are deleted only after a newer one is where a restart would find it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finetune.checkpoint import CheckpointStore, take_snapshot
from tests.checkpoint.states import about, parts_at


def save(store: CheckpointStore, step: int, *, best: bool = False) -> Path:
    return store.folder / str(store.write(take_snapshot(parts_at(step)), about(step, best=best)))


def steps(store: CheckpointStore) -> list[int]:
    return [name.step for name in store.names()]


def mark_uploaded(checkpoint: Path) -> None:
    for file in list(checkpoint.iterdir()):
        (checkpoint / f"{file.name}.sagemaker-uploaded").touch()


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 8):
        save(store, step, best=step in {2, 4})
    assert steps(store) == [7, 6, 4]


def test_an_old_one_goes_only_when_a_newer_one_is_marked_as_uploaded(tmp_path: Path) -> None:
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


def test_old_ones_that_the_agent_brought_back_go_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "local", keep=2)
    for step in (1, 2, 3):
        shutil.copytree(save(store, step), tmp_path / "s3" / str(store.names()[0]))
    shutil.rmtree(tmp_path / "local")
    shutil.copytree(tmp_path / "s3", tmp_path / "local")
    restarted = CheckpointStore(tmp_path / "local", keep=2)
    assert steps(restarted) == [3, 2, 1]
    save(restarted, 4)
    assert steps(restarted) == [4, 3]


def test_what_is_left_of_broken_ones_goes_but_not_what_a_later_version_wrote(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    torn = save(store, 1)
    later = tmp_path / "step-000000002-000002"
    shutil.copytree(torn, later)
    (torn / "manifest.json").unlink()
    (later / "manifest.json").write_text('{"body": {"format": "finetune-checkpoint", "version": 2}}')
    save(store, 3)
    assert steps(store) == [3, 2]


def test_a_damaged_one_that_was_passed_over_does_not_count_as_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    damaged = save(store, 2)
    values = (damaged / "progress.json").read_bytes()
    (damaged / "progress.json").write_bytes(b" " * len(values))
    restarted = CheckpointStore(tmp_path, keep=2)
    restarted.restore()
    save(restarted, 3)
    assert steps(restarted) == [3, 1]


def test_a_truncated_one_does_not_count_as_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    (save(store, 2) / "model.safetensors").write_bytes(b"")
    save(store, 3)
    assert steps(store) == [3, 1]


def test_the_manifest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 1)
    order: list[str] = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        order.append(path.name)
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    save(store, 2)
    assert not first.exists()
    assert order[0] == "manifest.json"
    assert len(order) == 6


def test_what_cannot_be_removed_does_not_hinder_the_next_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 1)
    (first / "somebody's folder").mkdir()
    save(store, 2)
    assert "Could not remove checkpoint step-000000001-000001" in caplog.text
    loaded = store.newest_complete()
    assert loaded is not None
    assert loaded.manifest.info.step == 2
    assert [path.name for path in first.iterdir()] == ["somebody's folder"]
