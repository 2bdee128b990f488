"""Guarantees of the sync agent, and the ones it does not give."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sagemaker_simulator import SyncAgent, SyncOptions, restore
from sagemaker_simulator.sync_agent import upload_order
from tests.support.simulated_jobs import eventually

MARKERS = (".sagemaker-uploading", ".sagemaker-uploaded")
SLOW_UPLOADS = SyncOptions(scan_seconds=0.001, chunk_bytes=1, bytes_per_second=0.01)
"""Options with which uploads stay in progress until the agent is stopped."""


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "s3" / "checkpoints"


@contextmanager
def running_agent(local: Path, remote: Path, options: SyncOptions | None = None) -> Iterator[SyncAgent]:
    agent = SyncAgent(local, remote, options or SyncOptions(scan_seconds=0.001))
    try:
        yield agent
    finally:
        agent.kill()


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically."""
    temporary = path.with_name(path.name + ".sagemaker-ignore")
    temporary.write_text(text)
    temporary.rename(path)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_new_and_changed_files_are_uploaded(local: Path, remote: Path) -> None:
    with running_agent(local, remote):
        (local / "deep").mkdir()
        write_atomically(local / "deep" / "file", "1")
        eventually(lambda: contents(remote) == {"deep/file": "1"})
        with (remote / "deep" / "file").open() as previous:
            write_atomically(local / "deep" / "file", "22")
            eventually(lambda: contents(remote) == {"deep/file": "22"})
            assert previous.read() == "1", "the object was overwritten in place instead of being replaced"


def test_markers_are_created_locally_and_not_uploaded(local: Path, remote: Path) -> None:
    with running_agent(local, remote, SLOW_UPLOADS) as agent:
        write_atomically(local / "file", "x" * 5)
        eventually((local / "file.sagemaker-uploading").exists)
        assert not (local / "file.sagemaker-uploaded").exists()
        agent.finish()
        assert (local / "file.sagemaker-uploaded").exists()
        assert not (local / "file.sagemaker-uploading").exists()
    assert contents(remote) == {"file": "xxxxx"}


def test_ignored_names_are_not_uploaded(local: Path, remote: Path) -> None:
    with running_agent(local, remote) as agent:
        (local / "half.sagemaker-ignore").write_text("not yet")
        (local / "folder.sagemaker-ignore").mkdir()
        (local / "folder.sagemaker-ignore" / "file").write_text("not yet")
        write_atomically(local / "file", "now")
        agent.finish()
    assert contents(remote) == {"file": "now"}
    assert not (local / "half.sagemaker-ignore.sagemaker-uploaded").exists()


@pytest.mark.parametrize("mirror", [False, True])
def test_deletions_are_mirrored_on_request_only(local: Path, remote: Path, mirror: bool) -> None:
    with running_agent(local, remote, SyncOptions(scan_seconds=0.001, mirror_deletions=mirror)) as agent:
        write_atomically(local / "old", "1")
        eventually((local / "old.sagemaker-uploaded").exists)
        (local / "old").unlink()
        write_atomically(local / "new", "2")
        agent.finish()
    assert contents(remote) == ({"new": "2"} if mirror else {"new": "2", "old": "1"})


def test_interrupted_upload_keeps_previous_object(local: Path, remote: Path) -> None:
    with running_agent(local, remote, SyncOptions(scan_seconds=0.001, chunk_bytes=1, bytes_per_second=50)) as agent:
        write_atomically(local / "file", "1")
        eventually((local / "file.sagemaker-uploaded").exists)
        write_atomically(local / "file", "2" * 1000)
        write_atomically(local / "other", "2" * 1000)
        eventually(lambda: any(path.name.endswith(MARKERS[0]) for path in local.iterdir()))
        agent.kill()
    assert contents(remote) == {"file": "1"}
    assert [path.name for path in remote.parent.iterdir()] == ["checkpoints"]
    assert any(path.name.endswith(MARKERS[0]) for path in local.iterdir())


def test_finish_ends_after_timeout(local: Path, remote: Path) -> None:
    with running_agent(local, remote, SyncOptions(scan_seconds=60.0)) as agent:
        write_atomically(local / "file", "1")
        agent.finish(timeout=0.0)
    assert contents(remote) in ({}, {"file": "1"})


def test_nonatomic_writes_are_inconsistent_across_files(local: Path, remote: Path) -> None:
    inconsistent = 0
    for seed in range(20):
        options = SyncOptions(seed=seed, scan_seconds=0.0, delay_seconds=(0.0, 0.002))
        with running_agent(local, remote, options):
            for version in range(60):
                (local / "weights").write_text(f"{seed}.{version:02d}")
                (local / "optimizer").write_text(f"{seed}.{version:02d}")
        uploaded = contents(remote)
        inconsistent += uploaded.get("weights") != uploaded.get("optimizer")
    assert inconsistent > 0


def test_file_rewritten_in_place_is_inconsistent(local: Path, remote: Path) -> None:
    """Eventually: each upload that was overtaken by a change is followed by another."""
    path, versions = local / "file", itertools.cycle((b"1", b"2"))
    path.write_bytes(next(versions) * 300)
    options = SyncOptions(scan_seconds=0.001, chunk_bytes=10, bytes_per_second=1000)
    with running_agent(local, remote, options) as agent, path.open("r+b", buffering=0) as file:

        def tear() -> bool:
            file.seek(0)
            file.write(next(versions) * 300)
            return (remote / "file").exists() and len(set((remote / "file").read_bytes())) == 2

        eventually(tear)
        agent.finish()
    assert (remote / "file").read_bytes() == path.read_bytes()


def test_folder_renamed_during_upload_causes_no_error(local: Path, remote: Path) -> None:
    with running_agent(local, remote, SLOW_UPLOADS) as agent:
        (local / "step-1").mkdir()
        write_atomically(local / "step-1" / "file", "x" * 10)
        eventually((local / "step-1" / "file.sagemaker-uploading").exists)
        (local / "step-1").rename(local / "step-2")
        agent.finish()
    assert contents(remote)["step-2/file"] == "x" * 10


def test_restore_copies_objects_without_markers(local: Path, remote: Path, tmp_path: Path) -> None:
    with running_agent(local, remote) as agent:
        (local / "a").mkdir()
        write_atomically(local / "a" / "file", "1")
        agent.finish()
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    restore(remote, fresh)
    assert contents(fresh) == {"a/file": "1"}


def test_restore_from_missing_folder(local: Path, remote: Path) -> None:
    restore(remote, local)
    assert contents(local) == {}


def test_restored_files_are_not_uploaded_again(local: Path, remote: Path) -> None:
    write_atomically(local / "old", "1")
    with running_agent(local, remote) as agent:
        write_atomically(local / "new", "2")
        agent.finish()
    assert contents(remote) == {"new": "2"}


def test_upload_order_is_determined_by_seed() -> None:
    names = [f"{number}" for number in range(6)]
    orders = {tuple(upload_order(names, seed, scan)) for seed in range(10) for scan in range(10)}
    assert len(orders) > 50
    assert upload_order(names, 7, 3) == upload_order(names[::-1], 7, 3)


def test_failed_upload_is_raised(local: Path, remote: Path) -> None:
    with running_agent(local, remote) as agent:
        (remote / "file").mkdir()
        write_atomically(local / "file", "1")
        with pytest.raises(IsADirectoryError):
            agent.finish()
