"""Jobs with reshuffled objects in each epoch resume after an interruption and use each record once."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from finetune.data.pipe.batches import StreamBatches
from finetune.job.log_observer import LogObserver
from finetune.training.saved_state.state import TrainingState
from sagemaker_simulator import Channel, PipeSource, feed_pipes, lay_out
from tests.support.pipes import piped_request, texts
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import FinishedJob, run_request, succeeded

OPTIONS = {
    "epochs": "3",
    "batch_size": "4",
    "shuffle_buffer": "7",
    "checkpoint_interval_steps": "1",
    "learning_rate": "0.003",
    "max_length": "16",
    "workers": "1",
    "class_names": "bad,good",
    "num_training_samples": "36",
    "validation_fraction": "0",
}
STEPS = 9
"""Steps per epoch."""


@dataclass(frozen=True)
class Started:
    """One start of the job.

    Attributes:
        used: identities of the records used in each epoch up to the last step of this start.
    """

    job: FinishedJob
    used: dict[int, list[int]]


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Channel, ...]:
    """Six objects that `ShuffleConfig` reorders, and a model."""
    workdir = tmp_path_factory.mktemp("shuffled")
    (workdir / "train").mkdir()
    lines = [json.dumps({"label": label, "text": f"{text} {number}"}) for number, (label, text) in enumerate(texts(36))]
    for part in range(6):
        (workdir / "train" / f"{part}.jsonl").write_text("\n".join(lines[part::6]) + "\n")
    train = Channel(
        "train", workdir / "train", "link", content_type="application/jsonlines", pipe=PipeSource(shuffle_seed=3)
    )
    return train, Channel("model", write_folder(workdir / "bert", "bert"))


def start(workdir: Path, channels: tuple[Channel, ...], checkpoints: Path | None = None, stop_at: int = 0) -> Started:
    """Start on a new machine, optionally with checkpoints, and optionally stopped after a step."""
    request = piped_request(channels, OPTIONS, checkpoints=True)
    folder = lay_out(workdir, request)
    if checkpoints is not None:
        shutil.copytree(checkpoints, folder.checkpoints, dirs_exist_ok=True)
    used: dict[int, list[int]] = {}
    step_done = LogObserver.step_done

    def watched(observer: LogObserver, state: TrainingState, loss: Tensor) -> None:
        step_done(observer, state, loss)
        batches = observer._loaders.train
        assert isinstance(batches, StreamBatches)
        used[batches.position.epoch] = batches.position.state_dict()["identities"].tolist()
        if state.progress.step == stop_at:
            signal.raise_signal(signal.SIGTERM)

    feeders = feed_pipes(folder, request)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LogObserver, "step_done", watched)
            return Started(succeeded(run_request(folder)), used)
    finally:
        for feeder in feeders:
            feeder.kill()


@pytest.fixture(scope="module")
def whole(channels: tuple[Channel, ...], tmp_path_factory: pytest.TempPathFactory) -> Started:
    """The job without an interruption."""
    return start(tmp_path_factory.mktemp("whole") / "opt-ml", channels)


def test_first_epoch_is_repeated_in_same_order(tmp_path: Path, channels: tuple[Channel, ...], whole: Started) -> None:
    """The result has the same bits: pipes restart at the first one, and the seed determines its order."""
    before = start(tmp_path / "before", channels, stop_at=STEPS - 4)
    after = start(tmp_path / "after", channels, before.job.folder.checkpoints)
    assert "Stopped on request" in before.job.log
    assert f"channel 'train': skipped {4 * (STEPS - 4)} records that were used before" in after.job.log
    assert "in another order" not in after.job.log
    assert after.used == whole.used
    assert after.job.weights() == whole.job.weights()


def test_reshuffled_epoch_uses_each_record_once(tmp_path: Path, channels: tuple[Channel, ...], whole: Started) -> None:
    assert whole.used[0] != whole.used[1]
    before = start(tmp_path / "before", channels, stop_at=STEPS + 5)
    after = start(tmp_path / "after", channels, before.job.folder.checkpoints)
    assert after.job.log.count("channel 'train': the record order differs from the order before the interruption") == 1
    assert "are missing from the stream" not in after.job.log
    assert after.used[1][: 5 * 4] == before.used[1] == whole.used[1][: 5 * 4]
    assert [Counter(after.used[epoch]) for epoch in (1, 2)] == [Counter(whole.used[0])] * 2
    assert max(Counter(whole.used[0]).values()) == 1
    assert after.job.metrics()["job"]["steps"] == 3 * STEPS
