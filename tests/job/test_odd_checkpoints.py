"""Checkpoints with an unexpected state under valid hashes are harmless, or a user error that says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from finetune.checkpoint import CheckpointInfo, CheckpointStore, Specification, take_snapshot
from finetune.errors import UserError
from finetune.job.resume import resume_from
from tests.checkpoint.mutations import MUTATIONS, Mutation, apply_mutation
from tests.support.training_setup import TinyTraining, request

SPEC = request(early_stopping_patience="9", optimizer="adamw", strategy="full", epochs="3")
OURS = Specification.of({"epochs": 3, "learning_rate": 0.1})
PARTS = (
    *("account", "bad_records", "best", "findings", "history", "manifest", "optimizer", "probe", "progress", "scaler"),
    *("stream", "totals", "weights"),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after one and a half epochs, with a pending sample of the rules."""
    run = TinyTraining(SPEC, stop_after=9)
    assert not run.fit()
    folder = tmp_path_factory.mktemp("written")
    CheckpointStore(folder).write(take_snapshot(run.state.parts()), CheckpointInfo(9, "interruption", OURS))
    (checkpoint,) = folder.iterdir()
    assert {file.stem for file in checkpoint.iterdir()} == set(PARTS)
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd") / "checkpoints"


@pytest.mark.slow
@settings(max_examples=200)
@given(st.sampled_from(PARTS), MUTATIONS)
def test_modified_checkpoint_is_refused_or_resumed(written: Path, scratch: Path, part: str, mutation: Mutation) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(written, scratch)
    (checkpoint,) = scratch.iterdir()
    apply_mutation(checkpoint, f"{part}.json", mutation)
    run = TinyTraining(SPEC)
    found = CheckpointStore(scratch).restore()
    try:
        if found is not None:
            resume_from(found, OURS, run.state)
    except UserError as error:
        assert "resume=never" in str(error)
        event("refused")
        return
    event("taken up" if found else "passed over")
    run.fit()
    run.rules.end(run.state)


Change = Callable[[dict[str, Any]], None]


def lacks(part: str, name: str) -> Change:
    return lambda parts: parts[part].pop(name)


def holds(part: str, name: str, value: object) -> Change:
    return lambda parts: parts[part].update({name: value})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda parts: parts.pop("probe"), "missing or unknown parts: probe"),
        (lambda parts: parts.update({"later": {}}), "missing or unknown parts: later"),
        (lacks("progress", "step"), "part 'progress': ValueError: progress has missing or unexpected keys: step"),
        (holds("progress", "epoch", 1.0), "progress.epoch is 1.0 (float), expected 0 (int)"),
        (holds("progress", "epoch", 2), "its history has 1 epochs, but its progress 2"),
        (holds("progress", "step", -1), "step is -1 (int), expected a non-negative integer"),
        (lacks("weights", "head.bias"), "weights has missing or unexpected keys: head.bias"),
        (holds("weights", "head.bias", torch.zeros(1)), "weights.head.bias is a tensor [1] of torch.float32"),
        (holds("weights", "head.bias", torch.zeros(3).double()), "is a tensor [3] of torch.float64"),
        (
            holds("optimizer", "head.bias", {"step": torch.tensor(9.0)}),
            "head.bias has missing or unexpected keys: exp_avg",
        ),
        (holds("optimizer", "neck.bias", {}), "moments of unknown parameters: ['neck.bias']"),
        (holds("best", "weights", {"head.bias": torch.zeros(3)}), "best.weights has missing or unexpected keys:"),
        (holds("totals", "loss", 0.5), "totals.loss is 0.5 (float), expected a tensor [] of torch.float64"),
        (holds("history", "rows", [{"train:loss": 1.0}]), "row 0 has missing or unexpected keys: train:accuracy"),
        (holds("findings", "found", [{"rule": "Overfit"}]), "part 'findings': ValueError: expected a finding"),
        (holds("account", "starts", -3), "part 'account': ValueError"),
        (holds("scaler", "scale", 2.0), "scaler has missing or unexpected keys: scale"),
        (holds("stream", "used", 5), "part 'stream': ValueError: invalid stream position: 5 used records"),
        (holds("bad_records", "train", {"a.png": 3}), "part 'bad_records': ValueError"),
    ],
)
def test_difference_is_named(change: Change, text: str, tmp_path: Path) -> None:
    run = TinyTraining(SPEC, stop_after=9)
    run.fit()
    parts = run.saved()
    change(parts)
    with pytest.raises(ValueError, match=r".") as caught:
        TinyTraining(SPEC).load(parts)
    assert text in str(caught.value)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "nag", "rmsprop"])
@pytest.mark.parametrize("momentum", ["0", "0.9"])
def test_moments_of_every_optimizer_are_resumed(optimizer: str, momentum: str) -> None:
    wish = {} if optimizer.startswith("adam") else {"momentum": momentum}
    if optimizer == "nag" and momentum == "0":
        return
    spec = request(optimizer=optimizer, **wish)
    run, other = TinyTraining(spec, stop_after=2), TinyTraining(spec)
    run.fit()
    other.load(run.saved())
    assert other.saved()["optimizer"].keys() == run.saved()["optimizer"].keys()
