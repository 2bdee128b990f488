"""Whole jobs in several processes: the number of processes changes nothing but the time."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from sagemaker_simulator import TrainingJob, TrainingRequest
from tests.interruptions.jobs import text_job, vision_job
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Zygote, with_changes
from tests.support.forked_ranks import start_ranks, train_in_ranks

pytestmark = pytest.mark.slow

BAD_IMAGES = ("green/003.png", "red/011.png")
CLIPPED = {"gradient_clip_norm": "0.5"}
IMAGES: Mapping[str, Mapping[str, str]] = {
    # Class weights and bad records are in `damaged_images`; the last batch of 45 records is short.
    "from_scratch, bf16": {
        **CLIPPED,
        "strategy": "from_scratch",
        "precision": "bf16",
        "virtual_devices": "4",
        "batch_size": "24",
        "gradient_accumulation_steps": "2",
        "class_weights": "balanced",
        "max_bad_records": "2",
        "early_stopping_patience": "1",
        "early_stopping_min_delta": "1",
    },
    "full, fp32": {
        "strategy": "full",
        "precision": "fp32",
        "virtual_devices": "3",
        "batch_size": "24",
        "epochs": "2",
        "mixup": "0.4",
        "sampler": "balanced",
        "ema_decay": "0.9",
        "augmentation": "trivial",
    },
    "ResNet": {
        "strategy": "from_scratch",
        "model_name": "resnet18",
        "virtual_devices": "4",
        "batch_size": "32",
        "epochs": "1",
    },
}
COUNTS = {"from_scratch, bf16": (1, 3, 4), "full, fp32": (1, 2), "ResNet": (1, 4)}
"""Numbers of processes of the image jobs. All numbers occur with images; with each precision, for its texts."""
TEXTS: Mapping[str, Mapping[str, str]] = {
    "full, bf16": {**CLIPPED, "precision": "bf16", "virtual_devices": "4", "batch_size": "8", "epochs": "2"},
    "full, fp32": {"precision": "fp32", "virtual_devices": "3", "batch_size": "16", "class_weights": "balanced"},
}


def image_job(folder: Path, changes: Mapping[str, str]) -> TrainingJob:
    """A job on images, of which two cannot be decoded and one class is rare."""
    job = vision_job(folder, **changes)
    images = folder / "pictures"
    for index in range(8):
        (images / "blue" / f"{index:03d}.png").unlink()
    if "max_bad_records" in changes:
        for name in BAD_IMAGES:
            (images / name).write_bytes(b"no image")
    return job


def assert_same_result(zygote: Zygote, request: TrainingRequest, folder: Path, counts: tuple[int, ...]) -> Path:
    """Run a job in each number of processes; all outputs are the same. Return the folder of the first one."""
    first = train_in_ranks(zygote, request, folder / f"ranks-{counts[0]}", counts[0])
    expected = read_output(first)
    for count in counts[1:]:
        output = read_output(train_in_ranks(zygote, request, folder / f"ranks-{count}", count))
        assert_same_bits(output, expected)
    return first.root


@pytest.mark.parametrize("case", IMAGES)
def test_images_train_alike_in_any_number_of_processes(case: str, zygote: Zygote, tmp_path: Path) -> None:
    job = image_job(tmp_path / "job", IMAGES[case])
    root = assert_same_result(zygote, job.request, tmp_path, COUNTS[case])
    metrics = json.loads((root / "output" / "data" / "metrics.json").read_text("utf-8"))
    if case == "from_scratch, bf16":
        assert metrics["job"]["stopped_early"]
        bad_records = (root / "output" / "data" / "bad_records.json").read_text("utf-8")
        assert all(name in bad_records for name in BAD_IMAGES)


@pytest.mark.parametrize("case", TEXTS)
def test_texts_train_alike_in_any_number_of_processes(case: str, zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full", **TEXTS[case])
    assert_same_result(zygote, job.request, tmp_path, (1, 2, 3, 4) if case == "full, bf16" else (1, 2, 3))


def test_job_goes_on_in_another_number_of_processes(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full", virtual_devices="4", gradient_accumulation_steps="1")
    expected = read_output(train_in_ranks(zygote, job.request, tmp_path / "whole", 1))
    ranks = start_ranks(zygote, job.request, tmp_path / "killed", 4)
    assert ranks.wait_for(lambda: any(ranks.folder.checkpoints.glob("step-*/manifest.json")))
    ranks.send(signal.SIGKILL)
    assert ranks.end() == [-signal.SIGKILL] * 4
    for count in (1, 2, 3, 4):
        root = tmp_path / f"resumed-{count}"
        shutil.copytree(tmp_path / "killed", root)
        ranks = start_ranks(zygote, with_changes(job, virtual_devices=None).request, root, count)
        assert ranks.end() == [0] * count, ranks.text()
        assert "Resumed from checkpoint" in ranks.text()
        output = read_output(ranks.folder)
        output.report["asked"] = expected.report["asked"]  # virtual_devices is left out
        assert_same_bits(output, expected)
    root = tmp_path / "refused"
    shutil.copytree(tmp_path / "killed", root)
    ranks = start_ranks(zygote, with_changes(job, virtual_devices=2).request, root, 2)
    assert 1 in ranks.end()
    cause = "virtual_devices=2, but the checkpoint was written with 4"
    assert ranks.folder.failure.read_text("utf-8").startswith(cause)


def test_fast_order_has_the_same_bits_through_kills_in_the_same_number_of_processes(
    zygote: Zygote, tmp_path: Path
) -> None:
    # Of three summands, unlike of two, the order matters.
    job = text_job(tmp_path / "job", "full", virtual_devices="3", gradient_accumulation_steps="1", batch_size="12")
    fast = with_changes(job, distributed_order="fast").request
    expected = read_output(train_in_ranks(zygote, fast, tmp_path / "whole", 3))
    ranks = start_ranks(zygote, fast, tmp_path / "killed", 3)
    assert ranks.wait_for(lambda: any(ranks.folder.checkpoints.glob("step-*/manifest.json")))
    ranks.send(signal.SIGKILL, {1})
    assert -signal.SIGKILL in ranks.end()
    assert_same_bits(read_output(train_in_ranks(zygote, fast, tmp_path / "killed", 3)), expected)
    assert "Resumed from checkpoint" in (tmp_path / "killed-rank-0.log").read_text("utf-8")


def test_processes_beyond_the_virtual_devices_end_and_the_others_train(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full", virtual_devices="2", epochs="1")
    assert_same_result(zygote, job.request, tmp_path, (1, 4))


def test_bad_records_are_counted_over_all_processes(zygote: Zygote, tmp_path: Path) -> None:
    job = image_job(tmp_path / "job", {**IMAGES["from_scratch, bf16"], "max_bad_records": "1"})
    ranks = start_ranks(zygote, job.request, tmp_path / "opt-ml", 3)
    assert 1 in ranks.end()
    assert "bad record number 2, max_bad_records=1" in ranks.folder.failure.read_text("utf-8")


@pytest.mark.parametrize(("line", "rank"), [("Model bert", 1), ("first batch trained", 2), ("epoch=1;", 0)])
def test_stop_request_to_one_process_stops_all(line: str, rank: int, zygote: Zygote, tmp_path: Path) -> None:
    """While the data is prepared, in training and around an evaluation."""
    job = text_job(tmp_path / "job", "full", virtual_devices="3", epochs="50")
    ranks = start_ranks(zygote, job.request, tmp_path / "opt-ml", 3)
    assert ranks.wait_for(lambda: line in ranks.text()), ranks.text()
    ranks.send(signal.SIGTERM, {rank})
    assert ranks.end() == [0, 0, 0], [log.read_text("utf-8") for log in ranks.logs]
    assert "Stopped" in ranks.text()
