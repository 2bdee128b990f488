"""Is a job that `docker stop` ends ended in order, soon, wherever it stands, and resumed to the same bits?"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coloured_pictures import write_pictures
from image.containers import ML, Container, Harbour
from sagemaker_simulator import Channel, TrainingRequest, lay_out

GRACE_SECONDS = 120
HYPERPARAMETERS = {
    "strategy": "from_scratch",
    "model_name": "resnet18",
    "image_size": "48",
    "epochs": "2",
    "batch_size": "8",
    "workers": "1",
}
Moment = Callable[[Container], None]


@pytest.fixture(scope="module")
def request_for_pictures(tmp_path_factory: pytest.TempPathFactory) -> TrainingRequest:
    """Epochs of three steps, and an evaluation of twenty times as many pictures, which takes most of the time."""
    place = tmp_path_factory.mktemp("few-and-many")
    few, many = write_pictures(place / "train", 8), write_pictures(place / "validation", 160, 100)
    return TrainingRequest(
        channels=(Channel("train", few), Channel("validation", many)), hyperparameters=HYPERPARAMETERS
    )


@pytest.fixture(scope="module")
def undisturbed(
    image: str, request_for_pictures: TrainingRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """The same job, which nobody stops."""
    harbour = Harbour(image)
    try:
        code, container = harbour.run(tmp_path_factory.mktemp("undisturbed") / "ml", request_for_pictures)
        assert code == 0, container.log()
        yield container
    finally:
        harbour.clear()


def in_a_step(container: Container) -> None:
    """The first one takes longest."""
    container.wait_for(r"steps  ")
    time.sleep(0.2)


def in_an_evaluation(container: Container) -> None:
    """Half an epoch's time after an epoch."""
    container.wait_for(r"steps  ")
    began = time.monotonic()
    container.wait_for(r"epoch=1;")
    time.sleep((time.monotonic() - began) / 2)


def in_a_save(container: Container) -> None:
    """With a checkpoint after every step a save is nearly always under way."""
    container.wait_for(r"epoch=1;")


def at_the_start(container: Container) -> None:
    """While Python imports PyTorch."""
    time.sleep(1.0)


# What is done with the container, with which changes of the request, and where the next start goes on.
MOMENTS: dict[str, tuple[Moment, dict[str, str], str]] = {
    "in a step": (in_a_step, {}, r"epoch 1, step [12]\."),
    "in an evaluation": (in_an_evaluation, {}, r"epoch 2, step 6\."),
    "in a save": (in_a_save, {"checkpoint_interval_steps": "1"}, r"epoch 2, step [3-6]\."),
    "at the start": (at_the_start, {}, ""),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_stopped_job_ends_in_order_and_goes_on_to_the_same_bits(
    name: str, request_for_pictures: TrainingRequest, undisturbed: Container, harbour: Harbour, tmp_path: Path
) -> None:
    moment, changes, goes_on = MOMENTS[name]
    request = replace(request_for_pictures, hyperparameters=HYPERPARAMETERS | changes)
    stopped = harbour.start(tmp_path / "first" / "ml", request)
    moment(stopped)
    stopped.stop(GRACE_SECONDS)
    assert stopped.wait() == 0, stopped.log()
    sys.stdout.write(f"docker stop {name}: {stopped.seconds_to_stop:.1f} s\n{stopped.log()}")
    assert stopped.seconds_to_stop < GRACE_SECONDS
    assert not stopped.failure
    assert "epoch=2;" not in stopped.log()

    again = lay_out(tmp_path / "second" / "ml", request, Path(ML))
    shutil.copytree(stopped.folder.checkpoints, again.checkpoints, dirs_exist_ok=True)
    resumed = harbour.start_in(again, data=[str(channel.source) for channel in request.channels])
    assert resumed.wait() == 0, resumed.log()
    assert re.search(goes_on and rf"Resumed from checkpoint \S+: {goes_on}", resumed.log()), resumed.log()
    assert resumed.weights() == undisturbed.weights()
