"""The store finds its checkpoints exactly, newest first, and ignores everything else."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from finetune.checkpoint import CheckpointStore, take_snapshot
from finetune.errors import PlatformError
from tests.checkpoint.states import StaticState, checkpoint_info, is_state_at, make_parts, states_equal


def save(store: CheckpointStore, step: int, *, best: bool = False) -> Path:
    return store.folder / str(store.write(take_snapshot(make_parts(step)), checkpoint_info(step, best=best)))


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent").restore() is None
    assert not (tmp_path / "absent").exists()


def test_written_checkpoint_is_restored(tmp_path: Path) -> None:
    written = CheckpointStore(tmp_path)
    save(written, 7)
    loaded = CheckpointStore(tmp_path).restore()
    assert loaded is not None
    assert is_state_at(loaded.parts, 7)
    assert (loaded.manifest.info.step, loaded.manifest.info.kind) == (7, "periodic")


def test_all_types_and_special_values_keep_their_bits(tmp_path: Path) -> None:
    patterns = torch.tensor([0x7FC00001, 0x7F800001, -0x80000000, -0x00800000, 1], dtype=torch.int32)
    state: dict[str, object] = {
        "float32 with NaN payloads, -0.0, -inf, subnormal": patterns.view(torch.float32),
        "no dimension": torch.tensor(-0.0, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
        "channels last": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "view with gaps": torch.rand(6)[::2].contiguous(),
        "values": [float("nan"), float("-inf"), -0.0, 0.1, 2**70, (1, {2: None})],
    }
    for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.int8, torch.uint16, torch.complex64):
        state[str(dtype)] = torch.randint(0, 256, (3, 16), dtype=torch.uint8).view(dtype)
    store = CheckpointStore(tmp_path)
    store.write(take_snapshot({"all": StaticState(state)}), checkpoint_info(1))
    loaded = store.newest_complete()
    assert loaded is not None
    assert states_equal(loaded.parts["all"], state)


def test_last_written_is_newest_even_with_fewer_steps(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5000)
    save(store, 100)
    loaded = store.restore()
    assert loaded is not None
    assert loaded.manifest.info.step == 100


def test_repeated_step_gets_new_folder(tmp_path: Path) -> None:
    first = save(CheckpointStore(tmp_path), 5)
    content = {file.name: file.read_bytes() for file in first.iterdir()}
    second = save(CheckpointStore(tmp_path), 5)
    assert second != first
    assert {file.name: file.read_bytes() for file in first.iterdir()} == content


def test_serial_number_of_incomplete_checkpoint_is_not_reused(tmp_path: Path) -> None:
    incomplete = save(CheckpointStore(tmp_path), 5)
    (incomplete / "manifest.json").unlink()
    assert save(CheckpointStore(tmp_path), 5) != incomplete


def test_names_sort_by_step(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for step in (9, 10, 123456, 99):
        save(store, step)
    assert [int(name.split("-")[1]) for name in names_in(tmp_path)] == [9, 10, 99, 123456]


def test_only_temporary_files_are_removed_at_start(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    saved = save(store, 1)
    (saved / "model.safetensors.sagemaker-ignore").touch()
    cut_off = tmp_path / "step-000000002-000002"
    cut_off.mkdir()
    (cut_off / "model.safetensors.sagemaker-ignore").write_bytes(b"half")
    (tmp_path / "mine.sagemaker-ignore").touch()
    assert store.restore() is not None
    assert names_in(tmp_path) == ["mine.sagemaker-ignore", saved.name]
    assert not (saved / "model.safetensors.sagemaker-ignore").exists()


def test_foreign_entries_are_reported_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "step-000000009-000009").write_text("a file")
    (tmp_path / "step-000000003-000003.sagemaker-uploaded").touch()
    with caplog.at_level(logging.WARNING):
        loaded = store.restore()
    assert loaded is not None
    assert loaded.manifest.info.step == 1
    named = [record.getMessage() for record in caplog.records]
    assert any("checkpoint-500" in line for line in named)
    assert any("step-000000009-000009" in line for line in named)
    assert not any("uploaded" in line for line in named)


def test_file_instead_of_folder_is_platform_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match="cannot be read"):
        CheckpointStore(tmp_path / "file").restore()


def test_files_have_ignored_suffix_until_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[set[str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append({file.name for file in tmp_path.rglob("*") if file.is_file()})
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save(CheckpointStore(tmp_path), 1)
    before_last_part, before_manifest = synced[4], synced[-2]
    assert len(before_last_part) == 5
    assert all(name.endswith(".sagemaker-ignore") for name in before_last_part)
    assert "manifest.json.sagemaker-ignore" in before_manifest
    assert len([name for name in before_manifest if name.endswith(".sagemaker-ignore")]) == 1
    assert "manifest.json" in synced[-1]


@pytest.mark.parametrize("serial", [10**15 - 1, 10**15 - 2, 10**14])
def test_foreign_folder_with_maximum_serial_is_ignored(
    tmp_path: Path, serial: int, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = tmp_path / f"step-000000001-{serial}"
    foreign.mkdir()
    store = CheckpointStore(tmp_path)
    assert store.restore() is None
    assert f"Ignoring {foreign.name} in the checkpoints folder" in caplog.text
    for step in (3, 5, 7):
        save(store, step)
    again = CheckpointStore(tmp_path)
    loaded = again.restore()
    assert loaded is not None
    assert is_state_at(loaded.parts, 7)
    save(again, 9)
    assert names_in(tmp_path) == [foreign.name, "step-000000007-000003", "step-000000009-000004"]


def test_many_foreign_files_are_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2000):
        (tmp_path / f"foreign-{number:04d}").touch()
    assert CheckpointStore(tmp_path).restore() is None
    (line,) = caplog.messages
    assert line.startswith("Ignoring foreign-0000, foreign-0001, foreign-0002 and 1997 more in the checkpoints folder")


def test_many_empty_checkpoints_are_logged_in_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1, 301):
        (tmp_path / f"step-{number:09d}-{number:06d}").mkdir()
    store = CheckpointStore(tmp_path)
    assert store.restore() is None
    save(store, 301)
    assert len(caplog.messages) == 4
    assert "Skipped 297 more checkpoints" in caplog.text
    assert names_in(tmp_path) == ["step-000000301-000301"]


def test_unremovable_checkpoints_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1, 21):
        (tmp_path / f"step-{number:09d}-{number:06d}" / "folder").mkdir(parents=True)
    store = CheckpointStore(tmp_path)
    for step in (21, 22):
        save(store, step)
    assert sum("Could not remove checkpoint" in message for message in caplog.messages) == 3
