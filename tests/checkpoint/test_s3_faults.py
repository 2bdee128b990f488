"""An unusable S3 is reported at the start; later S3 failures cost no training step."""

from __future__ import annotations

import itertools
import logging
import socket
import urllib.request
from pathlib import Path

import pytest

from finetune.checkpoint import BackgroundWriter, CheckpointStore, take_snapshot
from finetune.checkpoint.s3 import S3Mirror
from finetune.checkpoint.s3_access import S3Location, S3Timeouts
from finetune.errors import JobError, PlatformError, UserError
from tests.checkpoint.conftest import S3
from tests.checkpoint.flaky_server import Decision, Fault, no_fault
from tests.checkpoint.states import checkpoint_info, is_state_at, make_parts


def every_other(fault: Fault) -> Decision:
    numbers = itertools.count()
    return lambda method, path: "none" if next(numbers) % 2 else fault


def always(fault: Fault, method: str = "", part: str = "") -> Decision:
    return lambda its_method, path: fault if its_method.startswith(method) and part in path else "none"


def save(mirror: S3Mirror, step: int) -> str:
    return str(mirror.write(take_snapshot(make_parts(step)), checkpoint_info(step)))


def restored_step(mirror: S3Mirror) -> int:
    loaded = mirror.restore()
    assert loaded is not None
    assert is_state_at(loaded.parts, loaded.manifest.info.step)
    return loaded.manifest.info.step


@pytest.mark.parametrize(
    "uri",
    ["", "s3://", "s3:///prefix", "https://bucket/prefix", "bucket/prefix", "s3://Bucket/x", "s3://b/x", "/opt/ml"],
)
def test_invalid_s3_uri_is_rejected(uri: str) -> None:
    with pytest.raises(UserError, match=r"checkpoint_s3_uri=.*s3://bucket/prefix"):
        S3Location.parse(uri)


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://my.bucket-1/", "my.bucket-1", ""),
        ("s3://bucket/a/b c", "bucket", "a/b c/"),
        (" s3://bucket//a// ", "bucket", "a/"),
    ],
)
def test_s3_uri_is_parsed(uri: str, bucket: str, prefix: str) -> None:
    assert S3Location.parse(uri) == S3Location(bucket, prefix)


def test_missing_bucket_is_user_error(s3: S3, tmp_path: Path) -> None:
    mirror = S3Mirror(CheckpointStore(tmp_path), S3Location("nobodys-bucket", ""), S3Timeouts(2))
    with pytest.raises(UserError, match="no bucket 'nobodys-bucket'"):
        mirror.restore()


def test_wrong_credentials_are_user_error(s3: S3, tmp_path: Path, moto_port: int) -> None:
    mirror = s3.mirror(tmp_path)
    try:
        switch_checks_on_after(0, moto_port)
        with pytest.raises(UserError, match=r"denied access \(InvalidAccessKeyId\).*s3:PutObject"):
            mirror.restore()
    finally:
        switch_checks_on_after(10**9, moto_port)


@pytest.mark.parametrize(("method", "part"), [("PUT", ""), ("GET", "list-type=2")])
def test_denied_access_at_start_is_user_error(s3: S3, tmp_path: Path, method: str, part: str) -> None:
    s3.proxy.decide = always("denied", method, part)
    with pytest.raises(UserError, match=r"denied access \(AccessDenied\)"):
        s3.mirror(tmp_path).restore()


def test_missing_credentials_are_user_error(s3: S3, tmp_path: Path, aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match="credentials"):
        s3.mirror(tmp_path).restore()


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "nonsense"), ("AWS_PROFILE", "nobody")])
def test_invalid_environment_is_user_error(
    s3: S3, tmp_path: Path, aws: pytest.MonkeyPatch, name: str, value: str
) -> None:
    aws.setenv(name, value)
    with pytest.raises(UserError, match=name):
        s3.mirror(tmp_path)


def test_unreachable_server_is_platform_error(s3: S3, tmp_path: Path, aws: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(PlatformError, match="could not be reached"):
        s3.mirror(tmp_path).restore()


def test_messages_fit_into_failure_file(s3: S3, tmp_path: Path) -> None:
    for fault in ("denied", "unavailable", "cut off"):
        s3.proxy.decide = always(fault)
        with pytest.raises(JobError) as failed:
            s3.mirror(tmp_path).restore()
        assert len(str(failed.value)) < 600


@pytest.mark.parametrize("fault", ["unavailable", "cut off"])
def test_single_failures_are_retried(s3: S3, tmp_path: Path, fault: Fault) -> None:
    s3.proxy.decide = every_other(fault)
    mirror = s3.mirror(tmp_path / "first", attempts=3)
    assert mirror.restore() is None
    save(mirror, 1)
    assert restored_step(s3.mirror(tmp_path / "second", attempts=3)) == 1


@pytest.mark.parametrize(
    ("fault", "part"),
    [("unavailable", "model.safetensors"), ("cut off", "manifest.json"), ("denied", "optimizer.json")],
)
def test_permanent_failure_is_warning_and_next_checkpoint_succeeds(
    s3: S3, tmp_path: Path, fault: Fault, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = s3.mirror(tmp_path / "first")
    save(mirror, 1)
    s3.proxy.decide = always(fault, "PUT", part)
    with BackgroundWriter(mirror) as writer:
        writer.submit(take_snapshot(make_parts(2)), checkpoint_info(2))
        writer.wait()
    assert "it is saved in its folder and the job continues" in caplog.text
    s3.proxy.decide = no_fault
    assert restored_step(s3.mirror(tmp_path / "second")) == 1
    assert restored_step(s3.mirror(tmp_path / "first")) == 2
    save(mirror, 3)
    assert restored_step(s3.mirror(tmp_path / "third")) == 3


def test_interrupted_download_is_retried(s3: S3, tmp_path: Path) -> None:
    save(s3.mirror(tmp_path / "first"), 1)
    first = {"model.safetensors", "optimizer.json"}

    def once_each(method: str, path: str) -> Fault:
        file = path.rpartition("/")[2]
        if method == "GET" and file in first:
            first.remove(file)
            return "cut off half-way"
        return "none"

    s3.proxy.decide = once_each
    assert restored_step(s3.mirror(tmp_path / "second")) == 1
    assert not first


def test_failing_download_falls_back_to_previous(s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirror = s3.mirror(tmp_path / "first")
    save(mirror, 1)
    newest = save(mirror, 2)
    s3.proxy.decide = always("cut off half-way", "GET", f"{newest}/model.safetensors")
    with caplog.at_level(logging.WARNING):
        assert restored_step(s3.mirror(tmp_path / "second")) == 1
    assert f"Skipping checkpoint {newest} in S3" in caplog.text
    assert not (tmp_path / "second" / newest).exists()


def test_missing_delete_permission_is_a_warning(s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    s3.proxy.decide = always("denied", "DELETE")
    mirror = s3.mirror(tmp_path / "first")
    mirror.restore()
    assert "Old checkpoints cannot be deleted from S3" in caplog.text
    for step in range(4):
        save(mirror, step)
    s3.proxy.decide = no_fault
    assert len(s3.checkpoints()) == 4
    assert restored_step(s3.mirror(tmp_path / "second")) == 3


def switch_checks_on_after(requests: int, port: int) -> None:
    """Make moto check credentials after `requests` requests."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/moto-api/reset-auth",
        data=str(requests).encode(),
        headers={"Content-Type": "text/plain"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
