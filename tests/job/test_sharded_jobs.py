"""Whole jobs with a sharded model: sharding changes memory and time, and nothing else."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from sagemaker_simulator import TrainingJob
from tests.interruptions.jobs import RULES_WITHOUT_TENSORS, text_job, vision_job
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Zygote, with_changes
from tests.support.forked_ranks import start_ranks, train_in_ranks

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A job, and the numbers of processes that train it with a sharded model."""

    build: Callable[..., TrainingJob]
    strategy: str
    settings: Mapping[str, str]
    counts: tuple[int, ...]


CASES = {
    "texts, full, bf16": Case(
        text_job,
        "full",
        {"precision": "bf16", "virtual_devices": "4", "gradient_clip_norm": "0.5", "activation_checkpointing": "true"},
        (1, 2, 3),
    ),
    # Of three processes, one computes two of the four shards; the others make a pass without records meanwhile.
    "texts, partial, fp32": Case(text_job, "partial", {"precision": "fp32", "virtual_devices": "4"}, (2, 3)),
    "images, from scratch, bf16": Case(
        vision_job,
        "from_scratch",
        {
            "precision": "bf16",
            "virtual_devices": "3",
            "batch_size": "24",
            "early_stopping_patience": "1",
            "ema_decay": "0.9",
            "cutmix": "1",
        },
        (2, 3),
    ),
    "images, partial, fp32": Case(vision_job, "partial", {"precision": "fp32", "virtual_devices": "2"}, (2,)),
}


@pytest.mark.parametrize("name", CASES)
def test_sharded_jobs_have_the_bits_of_one_process(name: str, zygote: Zygote, tmp_path: Path) -> None:
    case = CASES[name]
    settings = {"epochs": "2", "rules": RULES_WITHOUT_TENSORS, **case.settings}
    job = case.build(tmp_path / "job", case.strategy, **settings)
    plain = with_changes(job, sharding="none").request
    expected = read_output(train_in_ranks(zygote, plain, tmp_path / "plain", 1))
    sharded = with_changes(job, sharding="full").request
    for count in case.counts:
        folder = train_in_ranks(zygote, sharded, tmp_path / f"sharded-{count}", count)
        assert_same_bits(read_output(folder), expected)
        log = (tmp_path / f"sharded-{count}-rank-0.log").read_text("utf-8")
        plan = f"optimizer state of trainable layers are divided among {count} processes"
        assert (plan if count > 1 else "sharding  none") in log
        assert ("SageMaker Debugger's hook, are off" in log) == (count > 1)


def test_job_goes_on_with_and_without_sharding(zygote: Zygote, tmp_path: Path) -> None:
    settings = {"virtual_devices": "3", "epochs": "3", "ema_decay": "0.9", "rules": RULES_WITHOUT_TENSORS}
    job = text_job(tmp_path / "job", "full", **settings)
    plain, sharded = (with_changes(job, sharding=sharding).request for sharding in ("none", "full"))
    expected = read_output(train_in_ranks(zygote, plain, tmp_path / "whole", 1))
    ranks = start_ranks(zygote, sharded, tmp_path / "killed", 3)
    assert ranks.wait_for(lambda: any(ranks.folder.checkpoints.glob("step-*/manifest.json")))
    ranks.send(signal.SIGKILL)
    assert ranks.end() == [-signal.SIGKILL] * 3
    for name, request, count in (("plain", plain, 1), ("sharded", sharded, 2)):
        root = tmp_path / name
        shutil.copytree(tmp_path / "killed", root)
        ranks = start_ranks(zygote, request, root, count)
        assert ranks.end() == [0] * count, ranks.text()
        assert "Resumed from checkpoint" in ranks.text()
        assert_same_bits(read_output(ranks.folder), expected)


def test_sharded_job_on_two_hosts_has_the_same_bits(zygote: Zygote, tmp_path: Path) -> None:
    # Two processes on each: evaluation, text lengths and features are exchanged within hosts and between them.
    job = text_job(tmp_path / "job", "partial", virtual_devices="4", epochs="2", rules=RULES_WITHOUT_TENSORS)
    plain, sharded = (with_changes(job, sharding=sharding).request for sharding in ("none", "full"))
    expected = read_output(train_in_ranks(zygote, plain, tmp_path / "one", 1))
    folder = train_in_ranks(zygote, sharded, tmp_path / "hosts", 4, hosts=2)
    log = (tmp_path / "hosts-rank-0.log").read_text("utf-8")
    assert "divided among 4 processes" in log
    assert "2 on each host" in log
    assert_same_bits(read_output(folder), expected)


@pytest.mark.parametrize("line", ["first batch trained", "epoch=1;"])
def test_stop_request_to_one_process_stops_all_and_exports(line: str, zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full", virtual_devices="2", epochs="50", sharding="full")
    ranks = start_ranks(zygote, job.request, tmp_path / "opt-ml", 2)
    assert ranks.wait_for(lambda: line in ranks.text()), ranks.text()
    ranks.send(signal.SIGTERM, {1})
    assert ranks.end() == [0, 0], [log.read_text("utf-8") for log in ranks.logs]
    assert "exported the partially trained model" in ranks.text()


def test_checkpoint_of_another_request_ends_all_processes(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full", virtual_devices="2", epochs="1", sharding="full")
    train_in_ranks(zygote, job.request, tmp_path / "opt-ml", 2)
    ranks = start_ranks(zygote, with_changes(job, learning_rate="0.1").request, tmp_path / "opt-ml", 2)
    assert 1 in ranks.end()
    assert "belongs to another request: learning_rate" in ranks.folder.failure.read_text("utf-8")


def test_only_the_head_is_not_sharded(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "feature_extraction", epochs="1", sharding="full")
    train_in_ranks(zygote, job.request, tmp_path / "opt-ml", 2)
    log = (tmp_path / "opt-ml-rank-0.log").read_text("utf-8")
    assert "sharding  none: only the head is trained" in log
    assert "sharding has no effect: only the head is trained" in log
