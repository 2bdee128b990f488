"""Are the layers that learn compiled, and can they be compiled here?"""

from __future__ import annotations

import torch

from finetune.config.hyperparameters import JobSpec, Task
from finetune.errors import UserError
from finetune.training.step import Forward

_MOST_SHAPES = 64
"""Of batches, each of which is compiled by itself; beyond it PyTorch would go on without, and change last bits."""


def check_compiler(spec: JobSpec, task: Task, device: torch.device) -> None:
    """Compile something small, where the job is to compile.

    Raises:
        UserError: it cannot.
    """
    if not spec.run.compile:
        return
    if task == "text-classification":
        raise UserError(
            "compile=true is for pictures: texts come in many lengths, and each would be compiled by itself. Leave out"
            " compile."
        )
    try:
        torch.compile(torch.exp, dynamic=False)(torch.ones(64, device=device))
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"compile=true, but nothing can be compiled here: {reason[:200]}. Leave out compile, or use an image with a"
            " C++ compiler, Python's headers and, for GPUs, Triton, which this one leaves out."
        ) from error


def compiled(forward: Forward) -> Forward:
    """The same function, compiled for each shape of its inputs when that first comes.

    For each shape by itself, because a kernel for all of them would depend on which came first, and so a resumed job's
    last bits on where it was interrupted.
    """
    torch._dynamo.config.recompile_limit = _MOST_SHAPES
    return torch.compile(forward, dynamic=False)
