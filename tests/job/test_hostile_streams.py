"""Whole jobs whose pipes send records too large for memory or unparsable: an error with a cause, never a crash."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from sagemaker_simulator import Channel, PipeSource, feed_pipes, lay_out
from tests.support.pipes import NAMES, image_objects, piped_request
from tests.support.stream_writers import recordio
from tests.support.whole_jobs import FinishedJob, run_request

IMAGES = {"model_name": "resnet18", "strategy": "from_scratch", "image_size": "32", "epochs": "1", "batch_size": "8"}
LIMIT = 1 << 20


def run(workdir: Path, stream: bytes, content_type: str, options: Mapping[str, str]) -> FinishedJob:
    (workdir / "objects").mkdir()
    (workdir / "objects" / "0").write_bytes(stream)
    channel = Channel("train", workdir / "objects", content_type=content_type, pipe=PipeSource())
    request = piped_request((channel,), options)
    folder = lay_out(workdir / "opt-ml", request)
    feeders = feed_pipes(folder, request)
    try:
        return run_request(folder)
    finally:
        for feeder in feeders:
            feeder.kill()


def test_endless_recordio_record_is_refused_with_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.framing.recordio.MAX_RECORD_BYTES", LIMIT)
    good = recordio(b"x" * 100)
    endless = recordio(b"x" * 65536, 1) + recordio(b"x" * 65536, 2) * 200
    job = run(tmp_path, good + endless, "application/x-recordio", IMAGES)
    assert job.exit_code == 1
    assert "RecordIO record of more than 1,048,576 bytes" in job.failure
    assert f"in record 1 (from 0), which begins at byte {len(good)}" in job.failure


@pytest.mark.parametrize(("allowed", "code"), [("0", 1), ("1", 0)])
def test_deeply_nested_attribute_is_a_bad_record(tmp_path: Path, allowed: str, code: int) -> None:
    objects = image_objects(8)
    labels = [name.encode() for name, _ in objects]
    labels[3] = b"[" * 100_000
    stream = b"".join(recordio(content) + recordio(label) for (_, content), label in zip(objects, labels, strict=True))
    options = {**IMAGES, "attribute_names": "source-ref,class", "max_bad_records": allowed}
    options |= {"class_names": ",".join(NAMES), "num_training_samples": str(len(objects)), "validation_fraction": "0"}
    job = run(tmp_path, stream, "application/x-recordio", options)
    assert job.exit_code == code, job.log
    assert "nested too deeply" in (job.log if code == 0 else job.failure)
    assert "Internal error" not in job.log


def test_label_unique_per_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.pipe.first_pass.MAX_CLASSES", 10)
    (_, content), *_ = image_objects(1)
    stream = b"".join(recordio(struct.pack("<IfQQ", 0, number, number, 0) + content) for number in range(100))
    job = run(tmp_path, stream, "application/x-recordio", IMAGES)
    assert job.exit_code == 1
    assert "channel 'train': there are at least 11 classes" in job.failure
    assert "set label_column to another column" in job.failure
