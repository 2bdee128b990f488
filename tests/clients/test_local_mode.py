"""The SDKs' local modes run the image: one and two hosts, channels from folders and S3, failures as failures."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import boto3
import pytest

from finetune.export import inference
from tests.clients.local_mode import LocalJob, LocalMode
from tests.clients.recording_aws import REGION, recording_aws
from tests.support.coloured_images import write_images

pytestmark = [pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(1800)]

SDKS = ("sdk_v2", "sdk_v3")
BUCKET = "pictures"
QUICK = (
    *("model_name=resnet18", "strategy=from_scratch", "image_size=32", "epochs=1", "precision=fp32"),
    *("batch_size=16", "virtual_devices=2"),
)
ARTIFACT = {"artifact.json", "code/inference.py", "code/requirements.txt", "metrics.json", "model.safetensors"}


@pytest.fixture(scope="module")
def train_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "train", 24)


@pytest.fixture(scope="module")
def s3(train_images: Path) -> Iterator[Mapping[str, str]]:
    """Variables for a stand-in for S3 with the images under `s3://pictures/train`."""
    with recording_aws() as aws:
        client = boto3.client("s3", region_name=REGION, endpoint_url=aws.url, **aws.credentials)
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        for path in sorted(train_images.rglob("*.*")):
            client.upload_file(str(path), BUCKET, f"train/{path.relative_to(train_images)}")
        yield aws.environment()


@pytest.fixture(scope="module")
def one_host(local_mode: LocalMode, train_images: Path) -> Callable[[str], LocalJob]:
    """The plain job of each SDK, run once."""
    jobs: dict[str, LocalJob] = {}

    def job(sdk: str) -> LocalJob:
        if sdk not in jobs:
            jobs[sdk] = local_mode.run(f"{sdk}/train", {"train": f"file://{train_images}"}, values=QUICK)
        return jobs[sdk]

    return job


def assert_whole(job: LocalJob) -> None:
    assert job.exit_code == 0, job.log
    assert set(job.files(job.model)) == ARTIFACT
    written = set(job.files(job.output))
    assert {"data/metrics.json", "data/validation_predictions.csv"} <= written
    assert "failure" not in written, job.log
    assert job.metrics()["job"]["finished"]


@pytest.mark.parametrize("sdk", SDKS)
def test_one_host_with_channels_from_folders(
    one_host: Callable[[str], LocalJob], train_images: Path, tmp_path: Path, sdk: str
) -> None:
    job = one_host(sdk)
    assert_whole(job)
    model = inference.model_fn(str(job.unpacked(tmp_path)))
    predictions = io.StringIO(job.files(job.output)["data/validation_predictions.csv"].decode())
    for row in csv.DictReader(predictions):
        request = inference.input_fn((train_images / row["record"]).read_bytes(), "application/x-image")
        (answer,) = inference.predict_fn(request, model).records
        assert answer["predicted_label"] == row["predicted_label"]
        logged = [float(row[f"probability:{label}"]) for label in answer["labels"]]
        assert answer["probabilities"] == pytest.approx(logged, abs=1e-4)


@pytest.mark.parametrize("sdk", SDKS)
def test_two_hosts_with_s3_channels_train_together(
    local_mode: LocalMode, s3: Mapping[str, str], one_host: Callable[[str], LocalJob], sdk: str
) -> None:
    with_s3 = LocalMode(local_mode.image, local_mode.root, local_mode.lock, {**local_mode.variables, **s3})
    two_host_job = with_s3.run(f"{sdk}/train", {"train": f"s3://{BUCKET}/train"}, "--instance-count", "2", values=QUICK)
    assert_whole(two_host_job)
    assert "processes 2, 1 on each host" in two_host_job.log
    # Not the same bits: on a CPU, the virtual devices of two hosts have more threads than those of one.
    losses = [job.metrics()["job"]["history"][0]["train:loss"] for job in (one_host(sdk), two_host_job)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("sdk", SDKS)
def test_failing_job_is_reported_with_first_line_of_failure(
    local_mode: LocalMode, train_images: Path, sdk: str
) -> None:
    job = local_mode.run(f"{sdk}/train", {"train": f"file://{train_images}"}, values=(*QUICK, "learning_rate=fast"))
    assert job.exit_code != 0
    assert re.search(r"Process\s+exited\s+with\s+code:\s+1\b", job.log)
    failure = job.files(job.output)["failure"].decode()
    assert failure.splitlines()[0].startswith("learning_rate")
    assert failure.splitlines()[0] in job.log
    assert job.files(job.model) == {}


@pytest.mark.parametrize("sdk", SDKS)
def test_other_hosts_fail_with_reason_of_first(local_mode: LocalMode, tmp_path: Path, sdk: str) -> None:
    data = write_images(tmp_path / "train", 3)
    for folder in sorted(path for path in data.iterdir() if path.is_dir())[1:]:
        for image in folder.iterdir():
            image.unlink()
        folder.rmdir()
    job = local_mode.run(f"{sdk}/train", {"train": f"file://{data}"}, "--instance-count", "2", values=QUICK)
    assert job.exit_code != 0
    failure = job.files(job.output)["failure"].decode()
    assert "train" in failure.splitlines()[0] and "class" in failure.splitlines()[0]
    assert job.files(job.model) == {}


@pytest.mark.parametrize("sdk", SDKS)
def test_incremental_training(
    local_mode: LocalMode, one_host: Callable[[str], LocalJob], train_images: Path, sdk: str
) -> None:
    model = one_host(sdk).model
    source = f"file://{model if sdk == 'sdk_v2' else model.parent}"
    values = ("epochs=1", "batch_size=8", "strategy=feature_extraction")
    job = local_mode.run(f"{sdk}/incremental", {"train": f"file://{train_images}"}, "--model", source, values=values)
    assert_whole(job)
    assert job.metrics()["job"]["kept_head"]
    artifacts = [json.loads(each.files(each.model)["artifact.json"]) for each in (one_host(sdk), job)]
    assert artifacts[0]["architecture"] == artifacts[1]["architecture"]


def test_local_mode_refuses_unsupported_example(local_mode: LocalMode, train_images: Path) -> None:
    job = local_mode.run("sdk_v2/spot", {"train": f"file://{train_images}"})
    assert job.exit_code == 2
    assert "unrecognized arguments: --local" in job.log
