"""Containers outside the platform, without a sync agent, upload their checkpoints to S3 themselves."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from finetune.checkpoint import s3
from finetune.checkpoint.layout import MANIFEST
from finetune.checkpoint.s3_access import S3Timeouts
from sagemaker_simulator import Storage, TrainingJob, lay_out
from tests.checkpoint.flaky_server import Fault, FlakyServer
from tests.interruptions.jobs import text_job
from tests.interruptions.moments import after_line
from tests.interruptions.results import assert_same_bits, read_output, read_run_history
from tests.interruptions.starts import Disturbance, StartResult, Zygote, start
from tests.support.whole_jobs import run_request

BUCKET = "kept-by-the-job"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class S3Setup:
    """An S3 on this machine, a server that can fail in front of it, and a job that writes to it."""

    proxy: FlakyServer
    client: Any
    job: TrainingJob
    reference: StartResult

    def manifests(self) -> int:
        """The number of complete checkpoints."""
        objects = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())
        return sum(item["Key"].endswith(f"/{MANIFEST}") for item in objects)

    def fail(self, fault: Fault) -> None:
        self.proxy.decide = lambda method, path: fault

    def when_sent(self, count: int, seconds: float = 0.0) -> Disturbance:
        """A kill after `count` manifests have been requested to be stored."""
        num_requests = len(self.proxy.requests)

        def sent() -> int:
            return sum(
                method == "PUT" and path.endswith(MANIFEST) for method, path in self.proxy.requests[num_requests:]
            )

        return Disturbance(f"{count} checkpoints sent", lambda glimpse: sent() >= count, seconds)


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield int(server.get_host_and_port()[1])
    server.stop()


@pytest.fixture(scope="module")
def uninterrupted(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingJob, StartResult]:
    """A job and its end without an interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = text_job(folder / "job", "gradual", epochs="30")
    reference = start(zygote, replace(job, storage=Storage(folder / "reference")), folder / "whole")
    assert reference.exit_code == 0, reference.log
    return job, reference


@pytest.fixture
def s3_setup(port: int, uninterrupted: tuple[TrainingJob, StartResult], tmp_path: Path) -> Iterator[S3Setup]:
    job, reference = replace(uninterrupted[0], storage=Storage(tmp_path / "s3")), uninterrupted[1]
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    with FlakyServer(port) as proxy:
        environment = {**job.request.environment, **CREDENTIALS, "AWS_ENDPOINT_URL": proxy.url, "NO_PROXY": "127.0.0.1"}
        hyperparameters = {**job.request.hyperparameters, "checkpoint_s3_uri": f"s3://{BUCKET}/{os.urandom(4).hex()}"}
        request = replace(
            job.request, hyperparameters=hyperparameters, environment=environment, checkpoint_path=None
        )  # no platform: nothing is synced in either direction
        yield S3Setup(proxy, client, replace(job, request=request), reference)
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


@pytest.mark.slow
def test_killed_job_resumes_on_new_machine(s3_setup: S3Setup, zygote: Zygote, tmp_path: Path) -> None:
    for count, seconds in ((2, 0.0), (1, 0.1), (2, 0.02)):
        killed = start(zygote, s3_setup.job, tmp_path / "opt-ml", s3_setup.when_sent(count, seconds))
        assert killed.disturbed, killed.log
    resumed = start(zygote, s3_setup.job, tmp_path / "opt-ml")
    assert resumed.exit_code == 0, resumed.log
    assert "Resumed from" in resumed.log
    assert set(resumed.epoch_lines()) <= set(s3_setup.reference.epoch_lines())
    assert_same_bits(read_output(resumed.folder), read_output(s3_setup.reference.folder))
    assert read_run_history(resumed.folder)["starts"] >= 2
    assert s3_setup.manifests() in (2, 3)  # the newest two, and the best one if it is older


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["unavailable", "cut off", "denied"])
def test_server_failure_during_training(fault: Fault, s3_setup: S3Setup, zygote: Zygote, tmp_path: Path) -> None:
    """Training continues; a restart finds the checkpoints sent before; when the server is back, uploads continue."""
    first = start(zygote, s3_setup.job, tmp_path / "opt-ml", s3_setup.when_sent(1, 0.05))
    assert first.disturbed, first.log

    def decide_fault(method: str, path: str) -> Fault:
        return fault if sum(m == "PUT" and p.endswith(MANIFEST) for m, p in s3_setup.proxy.requests) > 2 else "none"

    s3_setup.proxy.decide = decide_fault
    second = start(zygote, s3_setup.job, tmp_path / "opt-ml", after_line("WARNING: Could not upload checkpoint", 0.0))
    assert second.disturbed, second.log
    assert "it is saved in its folder and the job continues" in second.log
    s3_setup.fail("none")
    resumed = start(zygote, s3_setup.job, tmp_path / "opt-ml")
    assert resumed.exit_code == 0, resumed.log
    assert "Resumed from" in resumed.log
    assert_same_bits(read_output(resumed.folder), read_output(s3_setup.reference.folder))


def test_missing_server_at_start(s3_setup: S3Setup, zygote: Zygote, tmp_path: Path) -> None:
    s3_setup.fail("cut off")
    result = start(zygote, s3_setup.job, tmp_path / "opt-ml")
    assert result.exit_code == 2, result.log
    assert "could not be reached" in result.folder.failure.read_text("utf-8")


@pytest.mark.slow
def test_unresponsive_server_does_not_delay_stop(
    s3_setup: S3Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, where timeouts can be shortened: requests fail after one second instead of 20."""
    monkeypatch.setattr(s3, "S3Timeouts", lambda: S3Timeouts(read_seconds=1.0, stop_seconds=1.0))
    for name, value in s3_setup.job.request.environment.items():
        monkeypatch.setenv(name, value)

    def silent(method: str, path: str) -> Fault:
        if method != "PUT" or "/step-" not in path:
            return "none"
        if path.endswith(MANIFEST):
            os.kill(os.getpid(), signal.SIGTERM)
        return "silent" if path.endswith(MANIFEST) else "none"

    s3_setup.proxy.decide = silent
    folder = lay_out(tmp_path / "opt-ml", s3_setup.job.request)
    stopped = run_request(folder)
    assert stopped.exit_code == 0, stopped.log
    assert "within 1 s after the stop request. Not uploaded: " in stopped.log
    assert "Stopped on request; exported the partially trained model." in stopped.log
    # No training progress is lost if the folder still exists.
    s3_setup.fail("none")
    resumed = run_request(folder)
    assert resumed.exit_code == 0, resumed.log
    assert "Resumed from" in resumed.log
    assert_same_bits(read_output(folder), read_output(s3_setup.reference.folder))
