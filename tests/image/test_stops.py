"""A job ended by `docker stop` at any point ends cleanly and soon, and resumes to the same bits.

A stop takes time to arrive, longer on a busy machine. A stop that misses its moment is repeated; everything else must
hold whenever it arrives.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Channel, TrainingRequest, lay_out
from tests.image.containers import ML, Container, ContainerRunner
from tests.support.coloured_images import write_images

GRACE_SECONDS = 120
ATTEMPTS = 5
STEPS = 9
HYPERPARAMETERS = {
    "strategy": "from_scratch",
    "model_name": "resnet18",
    "image_size": "96",
    "epochs": "2",
    "batch_size": "8",
    "workers": "1",
}
Moment = Callable[[Container], None]


@pytest.fixture(scope="module")
def image_request(tmp_path_factory: pytest.TempPathFactory) -> TrainingRequest:
    """Epochs whose steps take about as long as the evaluation after them, each much longer than a stop."""
    folder = tmp_path_factory.mktemp("data")
    train_folder, validation_folder = (
        write_images(folder / "train", 8 * STEPS // 3),
        write_images(folder / "validation", 80, 100),
    )
    return TrainingRequest(
        channels=(Channel("train", train_folder), Channel("validation", validation_folder)),
        hyperparameters=HYPERPARAMETERS,
    )


@pytest.fixture(scope="module")
def uninterrupted(
    image: str, image_request: TrainingRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """The same job without a stop."""
    runner = ContainerRunner(image)
    try:
        code, container = runner.run(tmp_path_factory.mktemp("undisturbed") / "ml", image_request)
        assert code == 0, container.log()
        yield container
    finally:
        runner.clear()


def at_start(container: Container) -> None:
    """While Python imports PyTorch."""
    container.wait_until(lambda: container.has_loaded("libtorch"), "import of PyTorch")


def in_step(container: Container) -> None:
    """After the first step."""
    container.wait_for("first batch trained")


def in_evaluation(container: Container) -> None:
    """The first checkpoint is that of the epoch's last step; the evaluation runs while it is written."""
    container.wait_until(lambda: container.has_checkpoint(f"step-{STEPS:09d}-*"), "checkpoint of the last step")


def in_save(container: Container) -> None:
    """With a checkpoint after every step, a save is almost always in progress: here, after a complete one."""
    container.wait_until(lambda: container.has_checkpoint("step-*/manifest.json"), "complete checkpoint")
    container.wait_until(lambda: container.has_checkpoint("step-*/*.sagemaker-ignore"), "unfinished checkpoint")


# The action on the container, the changes to the request, and the step at which the next start resumes.
MOMENTS: dict[str, tuple[Moment, dict[str, str], str]] = {
    "in a step": (in_step, {}, rf"epoch 1, step [1-{STEPS - 1}]\."),
    "in an evaluation": (in_evaluation, {"checkpoint_interval_steps": f"{STEPS}"}, rf"epoch 1, step {STEPS}\."),
    "in a save": (in_save, {"checkpoint_interval_steps": "1"}, r"epoch [12], step \d+\."),
    "at the start": (at_start, {}, ""),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_stopped_job_exits_and_resumes_to_same_bits(
    name: str, image_request: TrainingRequest, uninterrupted: Container, runner: ContainerRunner, tmp_path: Path
) -> None:
    moment, changes, resume_message = MOMENTS[name]
    request = replace(image_request, hyperparameters=HYPERPARAMETERS | changes)
    for attempt in range(ATTEMPTS):
        stopped = runner.start(tmp_path / f"first-{attempt}" / "ml", request)
        moment(stopped)
        stopped.stop(GRACE_SECONDS)
        assert stopped.wait() == 0, stopped.log()
        sys.stdout.write(f"docker stop {name}: {stopped.seconds_to_stop:.1f} s\n{stopped.log()}")
        assert stopped.seconds_to_stop < GRACE_SECONDS
        assert not stopped.failure

        second_folder = lay_out(tmp_path / f"second-{attempt}" / "ml", request, Path(ML))
        shutil.copytree(stopped.folder.checkpoints, second_folder.checkpoints, dirs_exist_ok=True)
        resumed = runner.start_in(second_folder, data=[str(channel.source) for channel in request.channels])
        assert resumed.wait() == 0, resumed.log()
        assert resumed.weights() == uninterrupted.weights()
        in_time = "epoch=2;" not in stopped.log()
        if in_time and re.search(resume_message and rf"Resumed from checkpoint \S+: {resume_message}", resumed.log()):
            return
    raise AssertionError(f"no stop occurred {name}")
