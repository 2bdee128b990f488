"""The library's reader finds the hook's data over two starts of a job; a broken hook is a single warning."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.monitoring.debugger import NoDebugger, debugger

# Each start runs in its own process, because the library keeps one hook per process; all are forked from one process
# without a hook, because importing torch and the library takes longer than everything else.
STARTS = """
import json, os, sys, torch
import smdebug.pytorch
from pathlib import Path
from torch import nn
from finetune.monitoring.debugger import debugger
configuration = sys.argv[1]
for start in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        break
    assert os.waitpid(child, 0)[1] == 0, start
else:
    raise SystemExit
first, last, end = start.split(",")
first, last, finished = int(first), int(last), end == "finished"
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
hook = debugger(Path(configuration), module)
hook.watch(optimizer)
forward = hook.through(lambda inputs: module(inputs["x"]))
losses = {}
for step in range(first, last):
    if step == first or step % 4 == 0:
        hook.training(step, step // 4)
    module(torch.randn(16, 4))  # a pass that nobody looks at
    torch.manual_seed(step)
    losses[step] = 0.0
    for batch in range(2):
        loss = nn.functional.cross_entropy(forward({"x": torch.randn(16, 4)}), torch.randint(3, (16,))) / 2
        loss.backward()
        losses[step] += loss.item()
    optimizer.step()
    optimizer.zero_grad()
    hook.step_done(torch.tensor(losses[step]))
    if step % 4 == 3:
        hook.evaluating()
        for batch in range(3):
            with torch.no_grad():
                forward({"x": torch.randn(2, 4)})
        hook.evaluated(0.25)
hook.close(finished=finished)
assert not any(one._forward_hooks for one in module.modules())
print("LOSSES", json.dumps(losses), flush=True)
"""
READER = """
import json, sys
from smdebug.rules.rule import Rule
from smdebug import modes
from smdebug.trials import create_trial
trial = create_trial(sys.argv[1])
class Seen(Rule):
    looked = []
    def invoke_at_step(self, step):
        self.looked.append(step)
        return False
rule = Seen(trial, action_str="")
for step in trial.steps():
    rule.invoke(step)
name = "CrossEntropyLoss_output_0"
values = {step: float(trial.tensor(name).value(step, mode=modes.TRAIN)) for step in trial.steps(mode=modes.TRAIN)}
print("FOUND", json.dumps([trial.steps(), values, trial.tensor_names(collection="gradients"), Seen.looked]))
print(trial.steps(mode=modes.EVAL))
"""


def run(code: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(("LOSSES", "FOUND"))]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "debughookconfig.json"
    collections = [{"CollectionName": "losses"}, {"CollectionName": "gradients"}]
    asked = {
        "LocalPath": str(tmp_path / "tensors"),
        "HookParameters": {"save_interval": "2"},
        "CollectionConfigurations": collections,
    }
    path.write_text(json.dumps(asked), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_librarys_reader_finds_the_values_of_the_loop_over_three_starts(
    tmp_path: Path, configuration: Path
) -> None:
    losses: dict[str, float] = {}
    told = run(STARTS, str(configuration), "0,5,interrupted", "4,8,interrupted", "8,12,finished")
    assert len(told) == 3
    for one in told:
        losses |= json.loads(one)
    (found,) = run(READER, str(tmp_path / "tensors"))
    steps, values, gradients, looked = json.loads(found)
    assert values == pytest.approx({str(step): losses[str(step)] for step in range(0, 12, 2)})
    # An evaluation separates the steps of two epochs; every second one is saved.
    assert steps == [0, 2, 4, 5, 7, 10, 12, 14]
    assert len(gradients) == 4
    assert looked == steps


def test_without_a_configuration_nothing_is_hooked() -> None:
    module = nn.Linear(2, 2)
    assert isinstance(debugger(None, module), NoDebugger)
    assert not module._forward_hooks


def test_a_broken_configuration_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = debugger(tmp_path / "broken.json", nn.Linear(2, 2))
    assert isinstance(found, NoDebugger)
    assert [record.name for record in caplog.records].count("finetune.monitoring.debugger") == 1
    found.training(0, 0)
    found.step_done(torch.zeros(()))
    found.evaluating()
    found.close(finished=True)
