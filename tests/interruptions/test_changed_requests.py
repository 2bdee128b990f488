"""Allowed and rejected changes between two starts, and restarts of finished jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.runtime.precision import choose_numerics
from sagemaker_simulator import Storage, TrainingJob
from tests.interruptions.jobs import text_job, vision_job
from tests.interruptions.moments import after_uploads
from tests.interruptions.results import assert_same_bits, read_output, read_run_history
from tests.interruptions.starts import StartResult, Zygote, start, with_changes

CONSTANT = {"lr_schedule": "constant", "warmup_fraction": "0"}


def with_own_storage(job: TrainingJob, folder: Path, **hyperparameters: object) -> TrainingJob:
    """The same request with its own storage."""
    return with_changes(replace(job, storage=Storage(folder)), **hyperparameters)


def run_to_success(zygote: Zygote, job: TrainingJob, root: Path) -> StartResult:
    result = start(zygote, job, root)
    assert result.exit_code == 0, result.log
    return result


def run_to_user_error(zygote: Zygote, job: TrainingJob, root: Path) -> str:
    result = start(zygote, job, root)
    assert result.exit_code == 1, result.log
    failure = result.folder.failure.read_text("utf-8")
    assert len(failure) < 1024
    return failure


def test_finished_job_exports_without_training(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "partial")
    first = run_to_success(zygote, job, tmp_path / "one")
    second = run_to_success(zygote, job, tmp_path / "two")
    assert len(first.epoch_lines()) == 4
    assert second.epoch_lines() == []
    assert_same_bits(read_output(second.folder), read_output(first.folder))
    assert read_run_history(second.folder)["starts"] == 2
    assert read_run_history(second.folder)["steps_repeated"] == 0


@pytest.mark.parametrize("make", [vision_job, text_job], ids=["vision", "text"])
@pytest.mark.parametrize("strategy", ["full", "partial"])
def test_more_epochs_with_constant_learning_rate(
    make: Callable[..., TrainingJob], strategy: str, zygote: Zygote, tmp_path: Path
) -> None:
    short = make(tmp_path / "job", strategy, **CONSTANT, epochs="3")
    run_to_success(zygote, short, tmp_path / "one")
    longer = run_to_success(zygote, with_changes(short, epochs=5), tmp_path / "two")
    reference = run_to_success(zygote, with_own_storage(short, tmp_path / "s3-of-long", epochs=5), tmp_path / "three")
    assert "epochs was 3, is 5" in longer.log
    assert longer.epoch_lines() == reference.epoch_lines()[3:]
    assert_same_bits(read_output(longer.folder), read_output(reference.folder))


def test_more_epochs_with_decaying_learning_rate(zygote: Zygote, tmp_path: Path) -> None:
    """The learning rate is a function of all steps: the steps of the first three epochs keep their learning rates."""
    short = text_job(tmp_path / "job", "full", epochs="3")
    run_to_success(zygote, short, tmp_path / "one")
    longer = run_to_success(zygote, with_changes(short, epochs=5), tmp_path / "two")
    reference = run_to_success(zygote, with_own_storage(short, tmp_path / "s3-of-long", epochs=5), tmp_path / "three")
    assert [line.partition(";")[0] for line in longer.epoch_lines()] == ["epoch=4", "epoch=5"]
    assert longer.epoch_lines() != reference.epoch_lines()[3:]


def test_settings_without_effect_on_result_may_change(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full", epochs="40")
    reference = run_to_success(zygote, with_own_storage(job, tmp_path / "reference"), tmp_path / "whole")
    killed = start(zygote, job, tmp_path / "opt-ml", after_uploads(1))
    assert killed.disturbed
    changed = with_changes(job, workers=3, max_bad_records=5, num_classes=3, num_training_samples=60, resume="required")
    resumed = run_to_success(zygote, changed, tmp_path / "opt-ml")
    assert "Resumed from" in resumed.log
    assert_same_bits(read_output(resumed.folder), read_output(reference.folder))


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"learning_rate": "0.01"}, ["learning_rate was 0.002, is 0.01"]),
        ({"seed": "12", "batch_size": "4"}, ["batch_size was 8, is 4", "seed was 11, is 12"]),
        ({"epochs": "3"}, ["epochs was 4, is 3"]),
        ({"strategy": "feature_extraction"}, ["strategy was partial, is feature_extraction"]),
        ({"dropout": "0.5"}, ["dropout was None, is 0.5"]),
        ({"precision": "fp32"}, ["precision was bf16, is fp32"]),
    ],
)
def test_changed_request_is_rejected(
    changes: dict[str, str], differences: list[str], zygote: Zygote, tmp_path: Path
) -> None:
    job = text_job(tmp_path / "job", "partial", precision="bf16")
    run_to_success(zygote, job, tmp_path / "one")
    failure = run_to_user_error(zygote, with_changes(job, **changes), tmp_path / "two")
    assert all(name in failure for name in differences)
    assert "resume=never" in failure


def test_precision_may_change_from_auto_to_its_value(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "partial")
    run_to_success(zygote, job, tmp_path / "one")
    precision = choose_numerics("auto", torch.device("cpu")).name
    assert "Resumed from" in run_to_success(zygote, with_changes(job, precision=precision), tmp_path / "two").log


def test_changed_data_or_model_is_rejected(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "partial")
    run_to_success(zygote, job, tmp_path / "one")
    table = tmp_path / "job" / "texts" / "texts.csv"
    original = table.read_text("utf-8")
    table.write_text(original.replace("ran", "sat", 1), "utf-8")
    assert "the records differ" in run_to_user_error(zygote, job, tmp_path / "two")
    table.write_text(original, "utf-8")
    text_job(tmp_path / "other", "partial")
    (tmp_path / "job" / "bert").rename(tmp_path / "job" / "earlier")
    write_other_network(tmp_path / "job" / "bert")
    failure = run_to_user_error(zygote, job, tmp_path / "two")
    assert "the frozen weights differ" in failure
    assert "the given weights differ" in failure


def test_changed_model_is_rejected_with_full_strategy(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full")
    run_to_success(zygote, job, tmp_path / "one")
    (tmp_path / "job" / "bert").rename(tmp_path / "job" / "earlier")
    write_other_network(tmp_path / "job" / "bert")
    assert "the given weights differ" in run_to_user_error(zygote, job, tmp_path / "two")


def write_other_network(folder: Path) -> None:
    from tests.support.tiny_transformers import write_folder

    write_folder(folder, "bert", seed=6)


def test_resume_never_starts_from_scratch(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "partial")
    run_to_success(zygote, job, tmp_path / "one")
    changed = with_changes(job, learning_rate="0.01", resume="never")
    restarted = run_to_success(zygote, changed, tmp_path / "two")
    expected = run_to_success(zygote, with_own_storage(changed, tmp_path / "reference"), tmp_path / "three")
    assert restarted.epoch_lines() == expected.epoch_lines()
    assert_same_bits(read_output(restarted.folder), read_output(expected.folder))
    assert read_run_history(restarted.folder)["starts"] == 1
    assert read_run_history(restarted.folder)["steps_repeated"] == 0
    # Its checkpoint is now the newest, although the earlier job had come as far.
    resumed = run_to_success(zygote, with_changes(changed, resume="auto"), tmp_path / "four")
    assert resumed.epoch_lines() == []
    assert_same_bits(read_output(resumed.folder), read_output(expected.folder))


def test_resume_required_fails_without_checkpoint(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "partial", resume="required")
    failure = run_to_user_error(zygote, job, tmp_path / "one")
    assert failure.startswith("resume=required, but there is no complete checkpoint")
