"""The plan of a job chooses sharding and activation checkpointing by memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from finetune.distributed.sharding.memory_plan import MEMORY_MODES, USABLE_SHARE, MemoryMode
from finetune.distributed.world import World
from finetune.errors import UserError
from finetune.job.choices.memory import choose_automatically, choose_memory, measure_memory
from finetune.job.plan_summary import memory_lines
from finetune.job.prepare import PreparedJob, prepare
from finetune.job.request import read_request
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import lay_out
from tests.interruptions.jobs import text_job

TWO = World(0, 2, 0, 2)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedJob]:
    """A job in one of two processes, before they exchange anything."""
    folder = tmp_path_factory.mktemp("memory")
    request = text_job(folder / "job", "partial", batch_size="64", epochs="1").request
    paths = Paths(lay_out(folder / "opt-ml", request).root)
    (folder / "scratch").mkdir()
    with Interruption() as interruption:
        yield replace(prepare(read_request(paths), interruption, folder / "scratch", World()), world=TWO)


def with_options(job: PreparedJob, **options: object) -> PreparedJob:
    distributed = job.spec.distributed.model_copy(update=options)
    return replace(job, request=replace(job.request, spec=replace(job.spec, distributed=distributed)))


def bytes_for(job: PreparedJob, mode: MemoryMode) -> int:
    """Memory of a device in which a mode just fits."""
    return int(measure_memory(job).bytes_per_device(mode, job.devices.count, 2) / USABLE_SHARE) + 1


def test_parameters_and_activations_are_measured(job: PreparedJob) -> None:
    memory = measure_memory(job)
    total = sum(parameter.numel() for parameter in job.backbone.module.parameters())
    assert memory.trainable + memory.frozen == total
    assert 0 < memory.largest_unit < memory.trainable
    # A batch of 64 texts of up to 32 tokens of width 16: more than five such tensors of four bytes.
    assert memory.activations > 5 * 64 * 32 * 16 * 4
    assert memory.checkpointed_activations > 64 * 32 * 16 * 4
    halved = measure_memory(replace(job, devices=replace(job.devices, count=2)))
    assert 0.45 * memory.activations < halved.activations < 0.55 * memory.activations


def test_first_fitting_mode_is_chosen_and_described(job: PreparedJob) -> None:
    sizes = {mode: bytes_for(job, mode) for mode in MEMORY_MODES}
    assert len(set(sizes.values())) == len(sizes)
    for size in sizes.values():
        choice = choose_automatically(job, [size] * 2)
        assert choice.mode == next(mode for mode in MEMORY_MODES if sizes[mode] <= size)
        first, *others = memory_lines(replace(job, memory=choice))
        assert ("GB without sharding" in first) == (choice.mode != "none")
        assert choice.is_sharded == bool(others) == ("are divided among 2 processes" in first)
        assert choice.checkpoints_activations == ("computed again in the backward pass" in first)


def test_job_that_does_not_fit_uses_the_least_memory(job: PreparedJob, caplog: pytest.LogCaptureFixture) -> None:
    choice = choose_automatically(job, [1000, 1000])
    sizes = {mode: bytes_for(job, mode) for mode in MEMORY_MODES}
    assert sizes[choice.mode] == min(sizes.values())
    assert "The job may run out of memory. Training needs at least" in caplog.text


def test_what_cannot_be_sharded_is_not(job: PreparedJob) -> None:
    alone = replace(job, world=World())
    fast = with_options(job, distributed_order="fast")
    for other in (alone, fast, replace(job, numerics=replace(job.numerics, scaled=True))):
        assert not choose_automatically(other, [1000] * other.world.size).is_sharded
    checkpointed = with_options(job, activation_checkpointing=True)
    assert choose_automatically(checkpointed, [10**12] * 2).mode == "checkpointing"


def test_hyperparameter(job: PreparedJob) -> None:
    assert choose_memory(job).mode == "none"  # on a CPU
    assert choose_memory(with_options(job, sharding="none", activation_checkpointing=True)).mode == "checkpointing"
    assert choose_memory(with_options(job, sharding="full")).mode == "full"
    assert choose_memory(with_options(job, sharding="full", activation_checkpointing=True)).mode == "full+checkpointing"
    scaled = replace(job, numerics=replace(job.numerics, scaled=True))
    with pytest.raises(UserError, match="sharding=full is not supported with precision=fp16"):
        choose_memory(with_options(scaled, sharding="full"))
    alone = choose_memory(replace(with_options(job, sharding="full"), world=World()))
    assert (alone.mode, alone.reason) == ("none", "a single process has nothing to share the parameters with")
