"""Whole jobs learn the same from pipes as from files."""

from __future__ import annotations

import gzip
import json
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.job.data.loaders import PROBE_RECORDS
from finetune.training.saved_state.run_history import process_age
from sagemaker_simulator import Channel, PipeSource, feed_pipes, lay_out
from tests.support.coloured_images import COLORS
from tests.support.pipes import (
    IMAGE_STREAMS,
    NAMES,
    TEXT_STREAMS,
    as_files,
    augmented_manifest,
    image_objects,
    image_records,
    json_lines,
    piped_request,
    rename_channel,
    shards,
)
from tests.support.stream_writers import escaped_recordio
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import FinishedJob, run_request, succeeded

pytestmark = pytest.mark.slow

FROM_SCRATCH = {
    "model_name": "resnet18",
    "strategy": "from_scratch",
    "image_size": "32",
    "epochs": "3",
    "batch_size": "8",
    "shuffle_buffer": "16",
    "workers": "2",
}
MARGIN = 0.15
"""Accuracy tolerance: two of the eighteen image records may differ."""

CLASSES = {"class_names": ",".join(NAMES), "num_training_samples": "48"}


def train_from_pipes(workdir: Path, channels: tuple[Channel, ...], options: Mapping[str, str]) -> FinishedJob:
    """Run a job in this process, with its pipes fed by other processes."""
    request = piped_request(channels, options)
    folder = lay_out(workdir / "opt-ml", request)
    feeders = feed_pipes(folder, request)
    try:
        return run_request(folder)
    finally:
        for feeder in feeders:
            feeder.kill()


def assert_files_teach_the_same(
    workdir: Path, channels: tuple[Channel, ...], options: Mapping[str, str], piped: FinishedJob
) -> None:
    """File mode, with the same records in another order, gives similar accuracy on a similar number of records."""
    files = tuple(channel if channel.pipe is None else as_files(channel) for channel in channels)
    job = succeeded(train_from_pipes(workdir, files, options))
    assert job.artifact()["labels"] == piped.artifact()["labels"]
    ours, theirs = piped.metrics(), job.metrics()
    assert ours["job"]["steps"] == theirs["job"]["steps"]
    assert ours["validation"]["records"] == theirs["validation"]["records"]
    accuracies = [metrics["validation"]["accuracy"] for metrics in (ours, theirs)]
    sys.stdout.write(f"accuracy from pipes {accuracies[0]:.3f}, from files {accuracies[1]:.3f}\n")
    assert abs(accuracies[0] - accuracies[1]) < MARGIN


@pytest.mark.parametrize("form", IMAGE_STREAMS)
def test_training_on_streamed_images(tmp_path: Path, form: str) -> None:
    write = IMAGE_STREAMS[form]
    channels = (write(tmp_path / "train", 16, 0), rename_channel(write(tmp_path / "validation", 6, 100), "validation"))
    # After three epochs, the accuracy still depends on the processor's rounding.
    options = {**FROM_SCRATCH, **CLASSES, "epochs": "5"}
    job = succeeded(train_from_pipes(tmp_path, channels, options))
    assert job.artifact()["labels"] == list(COLORS)
    metrics = job.metrics()
    assert metrics["validation"]["records"] == 18
    assert metrics["validation"]["accuracy"] > 0.8
    assert metrics["job"]["steps"] == 30
    assert len(job.accuracies()) == 5
    assert f"repeats {PROBE_RECORDS} predictions" in job.log
    assert_files_teach_the_same(tmp_path / "files", channels, options, job)


@pytest.mark.parametrize("form", TEXT_STREAMS)
def test_training_on_streamed_texts(tmp_path: Path, form: str) -> None:
    write = TEXT_STREAMS[form]
    artifact = Channel("model", write_folder(tmp_path / "bert", "bert"))
    channels = (
        write(tmp_path / "train", 160, 0),
        rename_channel(write(tmp_path / "validation", 40, 500), "validation"),
        artifact,
    )
    options = {"epochs": "6", "batch_size": "8", "learning_rate": "0.003", "max_length": "16", "workers": "1"}
    job = succeeded(train_from_pipes(tmp_path, channels, options))
    assert job.artifact()["labels"] == ["bad", "good"]
    assert job.metrics()["validation"]["records"] == 40
    assert job.metrics()["validation"]["accuracy"] > 0.9
    assert_files_teach_the_same(tmp_path / "files", channels, options, job)


def weights(job: FinishedJob) -> bytes:
    return (job.folder.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("strategy", ["feature_extraction", "partial"])
def test_streamed_features_are_cached_without_changing_results(tmp_path: Path, artifact: Path, strategy: str) -> None:
    channels = (
        image_records(tmp_path / "train", 16),
        rename_channel(image_records(tmp_path / "validation", 6, 100), "validation"),
        Channel("model", artifact),
    )
    options = {**CLASSES, "strategy": strategy, "epochs": "4", "batch_size": "8", "shuffle_buffer": "16"}
    job = succeeded(train_from_pipes(tmp_path / "kept", channels, options))
    assert "are cached: 1 pass through them instead of 4; without augmentation" in job.log
    assert job.metrics()["validation"]["records"] == 18
    nowhere = succeeded(train_from_pipes(tmp_path / "nowhere", channels, {**options, "cache_size_gb": "0"}))
    assert weights(nowhere) == weights(job)
    assert nowhere.metrics()["validation"] == job.metrics()["validation"]


def test_streamed_text_features_are_cached_without_changing_results(tmp_path: Path) -> None:
    channels = (
        json_lines(tmp_path / "train", 60),
        rename_channel(json_lines(tmp_path / "validation", 20, 500), "validation"),
        Channel("model", write_folder(tmp_path / "bert", "bert")),
    )
    options = {"strategy": "partial", "epochs": "3", "batch_size": "8", "max_length": "16"}
    job = succeeded(train_from_pipes(tmp_path / "kept", channels, options))
    assert "are cached: 1 pass through them instead of 3; results do not change" in job.log
    nowhere = succeeded(train_from_pipes(tmp_path / "nowhere", channels, {**options, "cache_size_gb": "0"}))
    assert weights(nowhere) == weights(job)


def test_first_pass_determines_classes_and_counts(tmp_path: Path) -> None:
    job = succeeded(train_from_pipes(tmp_path, (augmented_manifest(tmp_path / "train", 8),), FROM_SCRATCH))
    assert "the first pass took" in job.log
    assert job.artifact()["labels"] == list(COLORS)
    assert "repeats" in job.log


def test_validation_is_split_off_the_stream(tmp_path: Path) -> None:
    """Without a validation channel, each evaluation reads a pipe, and every record is in exactly one split."""
    options = {
        **FROM_SCRATCH,
        "class_names": ",".join(NAMES),
        "num_training_samples": "60",
        "validation_fraction": "0.3",
    }
    # The final evaluation, used by the export check, reads the records in another order than the first one.
    channel = replace(image_records(tmp_path / "train", 20), pipe=PipeSource(shuffle_seed=8))
    job = succeeded(train_from_pipes(tmp_path, (channel,), options))
    held_out = job.metrics()["validation"]["records"]
    assert 8 <= held_out <= 30
    assert len({row["record"] for row in job.predictions()}) == held_out
    assert len(job.accuracies()) == 3
    assert "check that the stream is complete" not in job.log
    report = json.loads((job.folder.output_data / "report.json").read_text("utf-8"))
    assert report["plan"]["facts"]["validation"] == "split off train"
    none = {**options, "validation_fraction": "0", "epochs": "1"}
    job = succeeded(train_from_pipes(tmp_path / "all", (image_records(tmp_path / "again", 20),), none))
    assert ("validation" in job.metrics(), job.metrics()["job"]["steps"]) == (False, 8)


@pytest.mark.parametrize("announced", [{}, {"num_training_samples": "3"}], ids=["counted", "announced"])
def test_too_few_records_for_a_split_fail_before_training(tmp_path: Path, announced: dict[str, str]) -> None:
    options = {**FROM_SCRATCH, "class_names": ",".join(NAMES), "validation_fraction": "0.01", **announced}
    job = train_from_pipes(tmp_path, (image_records(tmp_path / "train", 1),), options)
    assert job.exit_code == 1
    assert re.match(r"channel 'train': none of its 3 records .* validation_fraction=0\.01; .*'validation'", job.failure)
    assert "Plan" not in job.log


def test_classes_are_read_from_labels_channel(tmp_path: Path) -> None:
    """With its own class order, the same in Pipe mode and in File mode, where records are compressed."""
    names = ("red", "blue", "green", "grey")
    (tmp_path / "labels.txt").write_text("\n".join(names))
    channels = (
        augmented_manifest(tmp_path / "train", 8),
        replace(rename_channel(shards(tmp_path / "validation", 4, 100), "validation"), pipe=None),
        Channel("labels", tmp_path / "labels.txt"),
    )
    for shard in (tmp_path / "validation").iterdir():
        shard.with_suffix(".tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
        shard.unlink()
    job = succeeded(train_from_pipes(tmp_path, channels, {**FROM_SCRATCH, "num_training_samples": "24"}))
    assert "the first pass took" not in job.log
    assert job.artifact()["labels"] == list(names)
    assert job.metrics()["validation"]["records"] == 12


def test_evaluation_with_reordered_class_names(tmp_path: Path, artifact: Path) -> None:
    """Numeric labels refer to the announced classes, whatever their order in the model."""
    workdir = tmp_path / "test"
    workdir.mkdir()
    names = ("red", "blue", "green")
    records = [
        escaped_recordio(struct.pack("<IfQQ", 0, names.index(name), number, 0) + content)
        for number, (name, content) in enumerate(image_objects(6, 200))
    ]
    (workdir / "test.rec").write_bytes(b"".join(records))
    channel = Channel("test", workdir, content_type="application/x-recordio", pipe=PipeSource())
    channels = (channel, Channel("model", artifact))
    options = {"strategy": "evaluate", "class_names": ",".join(names)}
    piped = succeeded(train_from_pipes(tmp_path / "piped", channels, options))
    assert piped.artifact()["labels"] == list(COLORS)
    assert piped.metrics()["test"]["accuracy"] > 0.9
    files = succeeded(train_from_pipes(tmp_path / "files", (as_files(channel), channels[1]), options))
    assert files.metrics()["test"] == piped.metrics()["test"]
    strange = train_from_pipes(tmp_path / "strange", channels, {**options, "class_names": "red,blue,grey"})
    assert strange.exit_code == 1
    assert strange.failure.startswith("class_names and the channel 'labels' name grey, but the model has blue, green")


def test_unknown_class_in_files_is_refused(tmp_path: Path) -> None:
    channel = replace(image_records(tmp_path / "train", 4), pipe=None)
    job = train_from_pipes(tmp_path, (channel,), {**FROM_SCRATCH, "class_names": "blue,green"})
    assert job.exit_code == 1
    assert "has 1 classes that are missing from the request: '2' in 4 records such as part-0.rec:" in job.failure


def test_stream_is_not_counted_without_need(tmp_path: Path) -> None:
    options = {**FROM_SCRATCH, "class_names": CLASSES["class_names"], "lr_schedule": "constant", "warmup_fraction": "0"}
    job = succeeded(train_from_pipes(tmp_path, (augmented_manifest(tmp_path / "train", 8),), options | {"epochs": "5"}))
    assert "the first pass took" not in job.log
    assert job.metrics()["job"]["steps"] == 15


def test_features_of_uncounted_stream_are_not_cached(tmp_path: Path, artifact: Path) -> None:
    channels = (augmented_manifest(tmp_path / "train", 8), Channel("model", artifact))
    options = {"strategy": "feature_extraction", "epochs": "2", "class_names": CLASSES["class_names"]}
    job = succeeded(
        train_from_pipes(tmp_path, channels, {**options, "lr_schedule": "constant", "warmup_fraction": "0"})
    )
    assert "are computed in every epoch: the number of records is unknown (num_training_samples)" in job.log


def test_time_of_first_batch_is_logged_once(tmp_path: Path) -> None:
    before = process_age()
    options = {**FROM_SCRATCH, **CLASSES, "num_training_samples": "12", "validation_fraction": "0"}
    job = succeeded(train_from_pipes(tmp_path, (augmented_manifest(tmp_path / "train", 4),), options))
    seconds = re.findall(r"^first batch trained (\S+) s after the start of the process$", job.log, re.MULTILINE)
    assert len(seconds) == 1
    assert round(before, 1) <= float(seconds[0]) <= round(process_age(), 1)
    assert job.log.index("first batch trained") < job.log.index("epoch=1;")


def test_unknown_class_in_stream_is_refused(tmp_path: Path) -> None:
    options = {**FROM_SCRATCH, "class_names": "blue,green", "num_training_samples": "48"}
    job = train_from_pipes(tmp_path, (augmented_manifest(tmp_path / "train", 4),), options)
    assert job.exit_code == 1
    assert job.failure.startswith("channel 'train': record ")
    assert "has the unknown class 'red'" in job.failure


def test_unreadable_stream_is_refused_with_reason(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    rows = (json.dumps({"text": "cat", "label": ["a", "b"]}) for _ in range(4))
    (tmp_path / "train" / "0.jsonl").write_text("\n".join(rows))
    channel = Channel("train", tmp_path / "train", content_type="application/jsonlines", pipe=PipeSource())
    job = train_from_pipes(tmp_path, (channel, Channel("model", write_folder(tmp_path / "bert", "bert"))), {})
    assert job.exit_code == 1
    assert job.failure.startswith("channel 'train': no record can be parsed: record 0 (from 0) the label is a list;")


def test_truncated_stream_is_refused(tmp_path: Path) -> None:
    channel = image_records(tmp_path / "train", 4)
    part = tmp_path / "train" / "part-1.rec"
    part.write_bytes(part.read_bytes()[:-3])
    job = train_from_pipes(tmp_path, (channel,), {**FROM_SCRATCH, **CLASSES})
    assert job.exit_code == 1
    assert job.failure.startswith("channel 'train', epoch 0: the stream ends in the middle of a RecordIO record, in")
    assert "record 11 (from 0), which begins at byte" in job.failure
