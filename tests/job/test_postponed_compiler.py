"""Does a job do without torch's compiler, and get the real one when it compiles something?

In processes of their own: this one has imported it long ago.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import sys
from finetune.job.postponed_compiler import postpone_compiler
postpone_compiler()
import finetune.job.run
import torch
layer = torch.nn.Linear(3, 3)
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(2, 3)).sum().backward()
optimizer.step()
"""


def said(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_what_a_job_of_pictures_imports_and_a_step_of_an_optimizer_do_not_bring_it() -> None:
    assert said("print(*(name for name in ('sympy', 'torch._dynamo.eval_frame') if name in sys.modules))") == ""


@pytest.mark.slow
def test_a_function_can_be_compiled_afterwards() -> None:
    code = """
compiled = torch.compile(layer, backend="eager")
assert torch.equal(compiled(torch.ones(2, 3)), layer(torch.ones(2, 3)))
optimizer.zero_grad()
compiled(torch.ones(2, 3)).sum().backward()
optimizer.step()
import torchvision, torch._dynamo.utils
real = sys.modules["torch._dynamo"]
assert real is torch._dynamo and hasattr(real, "__file__")
assert torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 2).shape == (1, 1, 2, 2)
print(len(torch._dynamo.utils.counters["frames"]))
"""
    assert int(said(code)) > 0


@pytest.mark.slow
def test_whoever_imports_a_part_of_it_gets_that() -> None:
    code = "from torch._dynamo import config; from transformers import BertModel; print(config.suppress_errors)"
    assert said(code) == "False"
