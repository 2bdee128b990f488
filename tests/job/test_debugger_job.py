"""Whole jobs with SageMaker Debugger's hook: also killed twice and resumed, and read with the library's own reader."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sagemaker_simulator import JobFolder, lay_out
from tests.interruptions.starts import Zygote
from tests.support.whole_jobs import ENVIRONMENT, FinishedJob, build_request, run_request, succeeded

EPOCHS, STEPS_PER_EPOCH = 4, 6
PARTIAL = {"strategy": "partial"}
# A job that logs the calls of its training loop, and is killed within a step, before any cleanup: from step `last` on,
# as soon as the timing is recorded, which does not happen in the first milliseconds on a fast machine.
JOB = """
import json, os, signal, sys
from finetune.entry import run
from finetune.training.step import TrainStep
record, last = open(sys.argv[1], "a"), int(sys.argv[2])
take, update = TrainStep.run, TrainStep._update
account = os.path.join(os.environ["SAGEMAKER_BASE_DIR"], "checkpoints", "account.json")
gradient = []
def has_timing():
    parts = json.load(open(account))["parts"]
    return all(parts.get(name) for name in ("forward", "backward", "update"))
def updated(self, *rest):
    head = [p for name, p in self.backbone.module.named_parameters() if name == "fc.weight"][0]
    gradient.append(float(head.grad.double().sum()))
    update(self, *rest)
def taken(self, batches, step, *rest):
    loss = take(self, batches, step, *rest)
    print(json.dumps([step, float(loss), gradient.pop()]), file=record, flush=True)
    if 0 <= last <= step and has_timing():
        os.kill(os.getpid(), signal.SIGKILL)
    return loss
TrainStep.run, TrainStep._update = taken, updated
sys.exit(run())
"""
READER = """
import json, sys
from smdebug import modes
from smdebug.rules.rule import Rule
from smdebug.trials import create_trial
trial = create_trial(sys.argv[1])
train = trial.steps(mode=modes.TRAIN)
loss = trial.tensor("CrossEntropyLoss_output_0")
gradient = trial.tensor("gradient/ResNet_fc.weight")
class LossIsNumber(Rule):
    def __init__(self, trial):
        super().__init__(trial, action_str="")
        self.seen = []
    def invoke_at_step(self, step):
        if step in self.base_trial.tensor("CrossEntropyLoss_output_0").steps():
            self.seen.append(float(self.base_trial.tensor("CrossEntropyLoss_output_0").value(step)))
        return False
rule = LossIsNumber(trial)
for step in trial.steps():
    rule.invoke(step)
print("FOUND", json.dumps({
    "steps": trial.steps(), "train": train, "eval": trial.steps(mode=modes.EVAL),
    "losses": {step: float(loss.value(step, mode=modes.TRAIN)) for step in train},
    "validation": [float(loss.value(step, mode=modes.EVAL)) for step in trial.steps(mode=modes.EVAL)],
    "gradients": {step: float(gradient.value(step, mode=modes.TRAIN).astype("float64").sum()) for step in train},
    "outputs": [trial.tensor("avgpool_output_0").value(step, mode=modes.TRAIN).shape[0] for step in train],
    "weights": sorted(trial.tensor_names(collection="weights")),
    "seen": len(rule.seen), "ended": trial.loaded_all_steps,
}))
"""


@pytest.fixture(scope="module")
def channels(holdout: Path, images: Path, artifact: Path) -> dict[str, Path]:
    return {"train": holdout, "validation": images, "model": artifact}


def hook_configuration(workdir: Path, collections: list[dict[str, Any]]) -> dict[str, object]:
    return {
        "LocalPath": str(workdir / "tensors"),
        "HookParameters": {"train.save_interval": "2", "eval.save_interval": "1"},
        "CollectionConfigurations": collections,
    }


ASKED: list[dict[str, Any]] = [
    *({"CollectionName": name} for name in ("losses", "gradients", "weights")),
    {"CollectionName": "activations", "CollectionParameters": {"include_regex": "avgpool_output"}},
]


def laid_out(
    workdir: Path, channels: Mapping[str, Path], options: Mapping[str, str], collections: list[dict[str, Any]] = ASKED
) -> JobFolder:
    """A job of four epochs of six steps, with a checkpoint after every third step."""
    course = {"epochs": str(EPOCHS), "batch_size": "4", "augmentation": "none", "checkpoint_interval_steps": "3"}
    request = build_request(channels, {**options, **course, "workers": "1"})
    return lay_out(workdir / "opt-ml", replace(request, debug_hook=hook_configuration(workdir, collections)))


def start(zygote: Zygote, workdir: Path, folder: JobFolder, last_step: int = -1) -> FinishedJob:
    """One start of the job, killed within step `last_step` if given."""
    environment = {**ENVIRONMENT, "PATH": "", "SAGEMAKER_BASE_DIR": str(folder.root)}
    log = workdir / "log"
    process = zygote.fork(environment, log, (JOB, str(workdir / "record.jsonl"), str(last_step)))
    return FinishedJob(zygote.wait(process), log.read_text("utf-8"), folder)


def read(workdir: Path) -> dict[str, Any]:
    """The data as found by the library's reader."""
    command = [sys.executable, "-c", READER, str(workdir / "tensors")]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    line = next(line for line in completed.stdout.splitlines() if line.startswith("FOUND "))
    tensors: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "killed_at"),
    [
        pytest.param({"strategy": "partial", "precision": "fp32"}, (7, 16), id="killed twice, partial, fp32"),
        pytest.param({"strategy": "full", "precision": "bf16"}, (), id="full, bf16"),
    ],
)
def test_debugger_reads_every_step(
    zygote: Zygote,
    tmp_path: Path,
    channels: dict[str, Path],
    options: dict[str, str],
    killed_at: tuple[int, ...],
) -> None:
    folder = laid_out(tmp_path, channels, options)
    for last_step in (*killed_at, -1):
        job = start(zygote, tmp_path, folder, last_step)
        assert job.exit_code == (0 if last_step < 0 else -9), job.log
        assert "hook failed" not in job.log
        account = json.loads((folder.root / "checkpoints" / "account.json").read_text("utf-8"))
        # A killed start has reported its timing.
        assert min(account["parts"][name] for name in ("forward", "backward", "update")) > 0
        assert sum(account["parts"].values()) + account["start_seconds"] <= account["run_seconds"] + 0.1
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text("utf-8").splitlines()]
    steps = EPOCHS * STEPS_PER_EPOCH
    # The steps after the last checkpoint ran twice, with the same result.
    assert len(lines) > steps if killed_at else len(lines) == steps
    loop = {step: (loss, gradient) for step, loss, gradient in lines}
    assert {step: loop[step][0] for step, _, _ in lines} == {step: loss for step, loss, _ in lines}
    tensors = read(tmp_path)
    assert tensors["train"] == list(range(0, steps, 2))
    assert tensors["eval"] == list(range(EPOCHS))
    # A single list over both starts without duplicate numbers: an evaluation separates two epochs.
    assert tensors["steps"] == sorted({step + step // STEPS_PER_EPOCH for step in range(0, steps, 2)}
                                    | {(epoch + 1) * STEPS_PER_EPOCH + epoch for epoch in range(EPOCHS)})  # fmt: skip
    assert tensors["losses"] == {str(step): loop[step][0] for step in range(0, steps, 2)}
    expected = {str(step): pytest.approx(loop[step][1], rel=1e-4, abs=1e-6) for step in range(0, steps, 2)}
    assert tensors["gradients"] == expected
    history = [row["validation:loss"] for row in job.metrics()["job"]["history"]]
    assert tensors["validation"] == pytest.approx(history)
    assert set(tensors["outputs"]) == {4}
    assert "ResNet_fc.weight" in tensors["weights"]
    assert tensors["seen"] == len(tensors["steps"])
    without = JobFolder(tmp_path / "without")
    shutil.copytree(folder.root / "input", without.root / "input", symlinks=True)
    (without.root / "input" / "config" / "debughookconfig.json").unlink()
    assert succeeded(run_request(without)).weights() == job.weights()
    assert tensors["ended"]


@pytest.mark.slow
def test_failing_hook_is_one_warning(zygote: Zygote, tmp_path: Path, holdout: Path, artifact: Path) -> None:
    # The library rejects a custom collection without an expression only at the first batch.
    folder = laid_out(tmp_path, {"train": holdout, "model": artifact}, PARTIAL, [{"CollectionName": "mine"}])
    job = start(zygote, tmp_path, folder)
    assert job.exit_code == 0, job.log
    assert job.log.count("WARNING: SageMaker Debugger's hook failed") == 1
    assert job.metrics()["job"]["finished"]
