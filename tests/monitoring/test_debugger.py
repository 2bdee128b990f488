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

from finetune.monitoring.debugger import NoDebugger, create_debugger

# Each start runs in its own process, because the library keeps one hook per process; all are forked from one process
# without a hook, because importing torch and the library takes longer than everything else.
STARTS = """
import json, os, sys, torch
import smdebug.pytorch
from pathlib import Path
from torch import nn
from finetune.monitoring.debugger import create_debugger
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
hook = create_debugger(Path(configuration), module)
hook.watch(optimizer)
forward = hook.wrap_forward(lambda inputs: module(inputs["x"]))
losses = {}
for step in range(first, last):
    if step == first or step % 4 == 0:
        hook.begin_step(step, step // 4)
    module(torch.randn(16, 4))  # an unobserved pass
    torch.manual_seed(step)
    losses[step] = 0.0
    for batch in range(2):
        loss = nn.functional.cross_entropy(forward({"x": torch.randn(16, 4)}), torch.randint(3, (16,))) / 2
        loss.backward()
        losses[step] += loss.item()
    optimizer.step()
    optimizer.zero_grad()
    hook.end_step(torch.tensor(losses[step]))
    if step % 4 == 3:
        hook.begin_evaluation()
        for batch in range(3):
            with torch.no_grad():
                forward({"x": torch.randn(2, 4)})
        hook.end_evaluation(0.25)
hook.close(finished=finished)
assert not any(layer._forward_hooks for layer in module.modules())
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
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(("LOSSES", "FOUND"))]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "debughookconfig.json"
    collections = [{"CollectionName": "losses"}, {"CollectionName": "gradients"}]
    configuration_json = {
        "LocalPath": str(tmp_path / "tensors"),
        "HookParameters": {"save_interval": "2"},
        "CollectionConfigurations": collections,
    }
    path.write_text(json.dumps(configuration_json), encoding="utf-8")
    return path


@pytest.mark.slow
def test_smdebug_reads_the_losses_of_three_starts(tmp_path: Path, configuration: Path) -> None:
    losses: dict[str, float] = {}
    outputs = run(STARTS, str(configuration), "0,5,interrupted", "4,8,interrupted", "8,12,finished")
    assert len(outputs) == 3
    for output in outputs:
        losses |= json.loads(output)
    (output,) = run(READER, str(tmp_path / "tensors"))
    steps, values, gradients, invoked_steps = json.loads(output)
    assert values == pytest.approx({str(step): losses[str(step)] for step in range(0, 12, 2)})
    # An evaluation separates the steps of two epochs; every second one is saved.
    assert steps == [0, 2, 4, 5, 7, 10, 12, 14]
    assert len(gradients) == 4
    assert invoked_steps == steps


def test_no_hook_without_configuration() -> None:
    module = nn.Linear(2, 2)
    assert isinstance(create_debugger(None, module), NoDebugger)
    assert not module._forward_hooks


def test_broken_configuration_logs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        output = create_debugger(tmp_path / "broken.json", nn.Linear(2, 2))
    assert isinstance(output, NoDebugger)
    assert [record.name for record in caplog.records].count("finetune.monitoring.debugger") == 1
    output.begin_step(0, 0)
    output.end_step(torch.zeros(()))
    output.begin_evaluation()
    output.close(finished=True)
