"""S3 mirrors the checkpoint folder, and a new container restores from it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from finetune.checkpoint import BackgroundWriter, LoadedCheckpoint, take_snapshot
from finetune.checkpoint.s3 import S3Mirror
from tests.checkpoint.conftest import S3
from tests.checkpoint.states import StaticState, checkpoint_info, is_state_at, make_parts, states_equal


def save(mirror: S3Mirror, step: int, *, best: bool = False) -> str:
    return str(mirror.write(take_snapshot(make_parts(step)), checkpoint_info(step, best=best)))


def step_of(loaded: LoadedCheckpoint | None) -> int:
    if loaded is None:
        return -1
    assert is_state_at(loaded.parts, loaded.manifest.info.step)
    return loaded.manifest.info.step


def test_empty_bucket_has_no_checkpoint(s3: S3, tmp_path: Path) -> None:
    assert s3.mirror(tmp_path / "local").restore() is None
    assert s3.listed() == []


def test_new_container_resumes_from_s3(s3: S3, tmp_path: Path) -> None:
    with BackgroundWriter(s3.mirror(tmp_path / "first")) as writer:
        for step in (1, 2, 3):
            writer.submit(take_snapshot(make_parts(step)), checkpoint_info(step))
    second = s3.mirror(tmp_path / "second")
    assert step_of(second.restore()) == 3
    save(second, 4)
    assert step_of(s3.mirror(tmp_path / "third").restore()) == 4


def test_same_files_are_uploaded_with_manifest_last(s3: S3, tmp_path: Path) -> None:
    name = save(s3.mirror(tmp_path), 1)
    for file in (tmp_path / name).iterdir():
        answer = s3.client.get_object(Bucket=s3.bucket, Key=f"jobs/one/{name}/{file.name}")
        assert answer["Body"].read() == file.read_bytes()
    uploads = [path.rpartition("/")[2] for method, path in s3.proxy.requests if method == "PUT"]
    assert len(uploads) == 6
    assert uploads[-1] == "manifest.json"


def test_large_file_uses_multipart_upload(s3: S3, tmp_path: Path) -> None:
    state = {"weight": torch.arange(10_000_000, dtype=torch.int32)}
    s3.mirror(tmp_path / "first").write(take_snapshot({"model": StaticState(state)}), checkpoint_info(1))
    assert any("uploadId" in path for _, path in s3.proxy.requests)
    loaded = s3.mirror(tmp_path / "second").restore()
    assert loaded is not None
    assert states_equal(loaded.parts["model"], state)


@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["absent", "truncated", "flipped", "empty"])
def test_damaged_checkpoint_in_s3_falls_back_to_previous(
    s3: S3, tmp_path: Path, damage: str, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = s3.mirror(tmp_path / "first")
    save(mirror, 1)
    newest = save(mirror, 2)
    key = f"jobs/one/{newest}/{file}"
    content = bytearray(s3.client.get_object(Bucket=s3.bucket, Key=key)["Body"].read())
    if damage == "absent":
        s3.client.delete_object(Bucket=s3.bucket, Key=key)
    else:
        content[len(content) // 2] ^= 1
        damaged = {"truncated": content[:-1], "flipped": content, "empty": b""}[damage]
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=bytes(damaged))
    second = s3.mirror(tmp_path / "second")
    with caplog.at_level(logging.WARNING):
        assert step_of(second.restore()) == 1
    assert any(newest in record.getMessage() for record in caplog.records)
    assert not (tmp_path / "second" / newest).exists()
    assert save(second, 2) > newest  # a new name, so nothing is overwritten in place


def test_local_checkpoint_is_not_downloaded(s3: S3, tmp_path: Path) -> None:
    save(s3.mirror(tmp_path), 1)
    s3.proxy.requests.clear()
    assert step_of(s3.mirror(tmp_path).restore()) == 1
    assert not any(method == "GET" and "/step-" in path for method, path in s3.proxy.requests)


def test_damaged_local_checkpoint_is_downloaded(s3: S3, tmp_path: Path) -> None:
    name = save(s3.mirror(tmp_path), 1)
    (tmp_path / name / "model.json").write_text("")
    assert step_of(s3.mirror(tmp_path).restore()) == 1


def test_newer_of_folder_and_s3_is_restored(s3: S3, tmp_path: Path) -> None:
    mirror = s3.mirror(tmp_path / "first")
    save(mirror, 1)
    shutil.copytree(tmp_path / "first", tmp_path / "older")
    save(mirror, 2)
    assert step_of(s3.mirror(tmp_path / "older").restore()) == 2
    for key in s3.listed():
        if "-000002/" in key:
            s3.client.delete_object(Bucket=s3.bucket, Key=key)
    assert step_of(s3.mirror(tmp_path / "first").restore()) == 2


def test_newest_best_and_foreign_objects_stay_in_s3(s3: S3, tmp_path: Path) -> None:
    foreign = ["jobs/one/notes.txt", "jobs/one/step-mine/file", "jobs/two/step-000000001-000001/model.json"]
    for key in foreign:
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=b"mine")
    mirror = s3.mirror(tmp_path / "first")
    names = [save(mirror, step, best=step == 2) for step in (1, 2, 3, 4)]
    s3.client.delete_object(Bucket=s3.bucket, Key=f"jobs/one/{names[2]}/manifest.json")
    restarted = s3.mirror(tmp_path / "second")
    restarted.restore()
    newest = [save(restarted, step) for step in (5, 6)]
    assert s3.checkpoints() == [names[1], *newest, "step-mine"]
    assert set(foreign) < set(s3.listed())


def test_checkpoint_of_later_version_stays(s3: S3, tmp_path: Path) -> None:
    later = "jobs/one/step-000000001-000001/manifest.json"
    s3.client.put_object(Bucket=s3.bucket, Key=later, Body=b'{"body": {"format": "finetune-checkpoint", "version": 2}}')
    mirror = s3.mirror(tmp_path, keep=1)
    assert mirror.restore() is None
    save(mirror, 2)
    save(mirror, 3)
    assert later in s3.listed()
    assert len(s3.checkpoints()) == 2
