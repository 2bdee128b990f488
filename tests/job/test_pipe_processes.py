"""Jobs of several processes that share pipes give the bits of one process, whichever process is stopped or killed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune.distributed.world import World
from finetune.job.request import read_request
from finetune.job.run import run_job
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import Channel, JobFolder, feed_pipes, lay_out
from sagemaker_simulator.feeder import PipeFeeder
from tests.interruptions.starts import Zygote
from tests.support.forked_ranks import Ranks, fork_ranks
from tests.support.pipes import NAMES, OWN_TREE, image_records, piped_request, rename_channel
from tests.support.processes import run_processes, run_worlds
from tests.support.stream_sharing import feed

pytestmark = pytest.mark.slow

FROM_SCRATCH = {
    "model_name": "resnet18",
    "strategy": "from_scratch",
    "image_size": "32",
    "batch_size": "8",
    "shuffle_buffer": "7",
    "virtual_devices": "3",
    "workers": "1",
}
HEAD = {"strategy": "feature_extraction", "batch_size": "8", "shuffle_buffer": "7", "epochs": "2", "workers": "1"}
SOLVED = {"strategy": "feature_extraction", "head_solver": "lbfgs", "shuffle_buffer": "7", "workers": "1"}
SIZES = (1, 2, 3)
PARTS = ("model/model.safetensors", "output/data/validation_predictions.csv")


def run_cases(world: World, folder: Path) -> None:
    """Run the job of each case, in the folder of this number of processes."""
    for root in sorted((folder / str(world.size)).iterdir()):
        with Interruption() as interruption:
            run_job(read_request(Paths(root)), interruption, world)
        world.barrier()


def prepare_cases(folder: Path, artifact: Path) -> list[PipeFeeder]:
    """Lay out jobs: without a first pass, with it and with records held out, with a trained and with a solved head.

    The model of the first one is sharded.
    """
    train, validation = image_records(folder / "train", 12), image_records(folder / "validation", 5, 100)
    channels = (train, rename_channel(validation, "validation"))
    known = {"class_names": ",".join(NAMES), "num_training_samples": "36"}
    cases = {
        "1": piped_request(channels, {**FROM_SCRATCH, **known, "epochs": "1", "sharding": "full"}),
        "2": piped_request((train,), {**FROM_SCRATCH, "epochs": "1", "validation_fraction": "0.3"}),
        "3": piped_request((*channels, Channel("model", artifact)), HEAD),
        "4": piped_request((*channels, Channel("model", artifact)), SOLVED),
    }
    feeders = []
    for size in SIZES:
        for name, request in cases.items():
            feeders += feed_pipes(lay_out(folder / str(size) / name, request), request)
    return feeders


def test_processes_do_not_change_a_bit(tmp_path: Path, artifact: Path) -> None:
    feeders = prepare_cases(tmp_path, artifact)
    try:
        run_worlds(SIZES, run_cases, tmp_path)
    finally:
        for feeder in feeders:
            feeder.kill()
    for case in ("1", "2", "3", "4"):
        contents = {tuple((tmp_path / str(size) / case / part).read_bytes() for part in PARTS) for size in SIZES}
        assert len(contents) == 1, case


@contextmanager
def processes(zygote: Zygote, folder: JobFolder, size: int) -> Iterator[Ranks]:
    """The processes of a job, without a launcher."""
    ranks = fork_ranks(zygote, folder, {**os.environ, **OWN_TREE, "SAGEMAKER_BASE_DIR": str(folder.root)}, size)
    try:
        yield ranks
    finally:
        ranks.send(signal.SIGKILL)


def steps(root: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return sorted(int(path.parent.name.split("-")[1]) for path in (root / "checkpoints").glob("*/manifest.json"))


def new_container(folder: JobFolder, stream: bytes, pause: threading.Event | None, pause_at: float = 1.0) -> None:
    """Make new pipes and forget those already read, as after an interruption of the platform."""
    shutil.rmtree(folder.root / "pipe_state", ignore_errors=True)
    for pipe in folder.data.glob("train_*"):
        pipe.unlink()
    feed(folder.data, stream, 2, pause, pause_at)


def interrupt(
    zygote: Zygote, folder: JobFolder, rank: int, number: signal.Signals, pause: threading.Event
) -> list[int]:
    """Signal one of two processes while the pipe is silent; return the exit codes."""
    step = max(steps(folder.root), default=0)
    with processes(zygote, folder, 2) as ranks:
        assert ranks.wait_for(lambda: max(steps(folder.root), default=0) > step), ranks.text()
        ranks.send(number, {rank})
        if number == signal.SIGKILL:  # Without the launcher, which ends all processes, the next step notices it.
            pause.set()
        return ranks.wait(120)


def test_interruptions_of_single_processes_do_not_change_a_bit(zygote: Zygote, tmp_path: Path) -> None:
    channel = image_records(tmp_path / "records", 40)
    stream = b"".join(path.read_bytes() for path in sorted(channel.source.iterdir()))
    options = {**FROM_SCRATCH, "epochs": "1", "validation_fraction": "0", "checkpoint_interval_steps": "1"}
    options |= {"class_names": ",".join(NAMES), "num_training_samples": "120", "virtual_devices": "2"}
    request = piped_request((channel,), options, checkpoints=True)
    whole, often = lay_out(tmp_path / "whole", request), lay_out(tmp_path / "often", request)
    new_container(whole, stream, None)
    run_processes(1, run_in_folder, whole.root)

    for rank, number, share in ((1, signal.SIGTERM, 0.4), (0, signal.SIGTERM, 0.6), (1, signal.SIGKILL, 0.8)):
        pause = threading.Event()
        new_container(often, stream, pause, share)
        codes = interrupt(zygote, often, rank, number, pause)
        pause.set()
        assert codes == [0, 0] if number == signal.SIGTERM else codes[0] > 0
    new_container(often, stream, None)
    run_processes(2, run_in_folder, often.root)
    model = Path("model") / "model.safetensors"
    assert (often.root / model).read_bytes() == (whole.root / model).read_bytes()


def run_in_folder(world: World, root: Path) -> None:
    """Run a job."""
    with Interruption() as interruption:
        run_job(read_request(Paths(root)), interruption, world)
