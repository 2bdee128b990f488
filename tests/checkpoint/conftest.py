"""Fixtures for an S3 on this machine: moto's server, with a proxy in front that injects faults."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from finetune.checkpoint import CheckpointStore
from finetune.checkpoint.s3 import S3Mirror
from finetune.checkpoint.s3_access import S3Location, S3Timeouts
from tests.checkpoint.flaky_server import FlakyServer


@dataclass
class S3:
    """A bucket, and the proxy through which the code under test accesses it."""

    bucket: str
    proxy: FlakyServer
    client: Any

    def mirror(self, folder: Path, keep: int = 2, attempts: int = 2) -> S3Mirror:
        """A job's mirror, as a container with this folder would create it."""
        location = S3Location.parse(f"s3://{self.bucket}/jobs/one")
        return S3Mirror(CheckpointStore(folder, keep), location, S3Timeouts(attempts))

    def listed(self) -> list[str]:
        listing = self.client.list_objects_v2(Bucket=self.bucket)
        return sorted(item["Key"] for item in listing.get("Contents", ()))

    def checkpoints(self) -> list[str]:
        """Checkpoint folders, by name."""
        return sorted({key.split("/")[2] for key in self.listed() if key.startswith("jobs/one/step-")})


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield int(server.get_host_and_port()[1])
    server.stop()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment with credentials and without any of the machine's own settings."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


@pytest.fixture
def s3(moto_port: int, aws: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[S3]:
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto_port}")
    bucket = f"test-{abs(hash(request.node.nodeid)):x}"
    client.create_bucket(Bucket=bucket)
    with FlakyServer(moto_port) as proxy:
        aws.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield S3(bucket, proxy, client)
    client.close()
