"""A stopped job does not wait for an S3 server that accepts connections and never answers."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from finetune.checkpoint import BackgroundWriter, CheckpointStore, take_snapshot
from finetune.checkpoint.s3 import S3Mirror
from finetune.checkpoint.s3_access import S3Location, S3Timeouts
from finetune.checkpoint.store import StopDeadlineError
from tests.checkpoint.conftest import S3
from tests.checkpoint.flaky_server import Fault
from tests.checkpoint.states import StaticState, checkpoint_info, make_parts

pytestmark = pytest.mark.slow

SHORT = S3Timeouts(attempts=4, connect_seconds=5.0, read_seconds=1.0, stop_seconds=30.0)


@dataclass
class StopRequest:
    """How long ago the job was requested to stop; 0 if it was not."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def when(self, seconds: float, method: str, end: str, fault: Fault = "silent") -> Callable[[str, str], Fault]:
        """Set the stop request at the first request of this kind; it and all later requests get `fault`."""

        def decide(request_method: str, path: str) -> Fault:
            if request_method == method and path.partition("?")[0].endswith(end):
                self.seconds = seconds
            return fault if self.seconds else "none"

        return decide


def mirror(s3: S3, folder: Path, stop_request: StopRequest) -> S3Mirror:
    return S3Mirror(CheckpointStore(folder), S3Location(s3.bucket, "jobs/one/"), SHORT, stop_request)


@pytest.mark.parametrize(
    ("file", "remaining"),
    [("model.safetensors", "model.safetensors, model.json"), ("manifest.json", "manifest.json")],
)
def test_unanswered_request_is_not_retried_after_stop(
    s3: S3, tmp_path: Path, file: str, remaining: str, caplog: pytest.LogCaptureFixture
) -> None:
    stop_request = StopRequest()
    s3.proxy.decide = stop_request.when(31.0, "PUT", file)
    name = mirror(s3, tmp_path, stop_request).write(take_snapshot(make_parts(1)), checkpoint_info(1))
    assert sum(path.endswith(file) for _, path in s3.proxy.requests) == 1
    assert f"Could not upload checkpoint {name} to S3" in caplog.text
    assert f"within 30 s after the stop request. Not uploaded: {remaining}" in caplog.text
    newest = CheckpointStore(tmp_path).newest_complete()
    assert newest is not None
    assert newest.manifest.name == name


def test_no_request_is_sent_after_deadline(s3: S3, tmp_path: Path) -> None:
    """Neither uploads in flight nor the final state after them."""
    stop_request = StopRequest()
    s3.proxy.decide = stop_request.when(31.0, "PUT", "model.safetensors")
    with BackgroundWriter(mirror(s3, tmp_path, stop_request)) as writer:
        for step in (1, 2):
            writer.submit(take_snapshot(make_parts(step)), checkpoint_info(step, kind="interruption"))
    assert len(s3.proxy.requests) == 1
    assert len(CheckpointStore(tmp_path).names()) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_large_upload_is_aborted_after_deadline(s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop_request = StopRequest()
    s3.proxy.decide = stop_request.when(31.0, "PUT", "model.safetensors", "none")
    state = {"weight": torch.zeros(100 << 20, dtype=torch.uint8)}
    mirror(s3, tmp_path, stop_request).write(take_snapshot({"model": StaticState(state)}), checkpoint_info(1))
    assert "Not uploaded: model.safetensors, model.json, manifest.json" in caplog.text
    gc.collect()  # an abandoned request leaves a file open, which warns when it is collected


def test_request_is_retried_before_deadline(s3: S3, tmp_path: Path) -> None:
    stop_request = StopRequest(1.0)
    faults: list[Fault] = ["silent", "silent"]
    s3.proxy.decide = lambda method, path: faults.pop() if faults else "none"
    mirror(s3, tmp_path, stop_request).write(take_snapshot(make_parts(1)), checkpoint_info(1))
    assert not faults
    assert len(s3.checkpoints()) == 1


@pytest.mark.parametrize(
    ("method", "end"), [("PUT", "write-check.sagemaker-ignore"), ("GET", "/"), ("GET", "model.safetensors")]
)
def test_stopped_restore_ends_without_older_checkpoint(
    s3: S3, tmp_path: Path, method: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    previous = mirror(s3, tmp_path / "first", StopRequest())
    for step in (1, 2):
        previous.write(take_snapshot(make_parts(step)), checkpoint_info(step))
    stop_request = StopRequest()
    end = f"{s3.bucket}" if end == "/" else end
    s3.proxy.decide = stop_request.when(0.1, method, end)
    s3.proxy.requests.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(StopDeadlineError):
        mirror(s3, tmp_path / "second", stop_request).restore()
    assert stop_request.seconds
    assert sum(kind == method and path.partition("?")[0].endswith(end) for kind, path in s3.proxy.requests) == 1
    assert "Skipping checkpoint" not in caplog.text
