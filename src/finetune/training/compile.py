"""Compilation of the trainable layers with `torch.compile`."""

from __future__ import annotations

import torch

from finetune.config.hyperparameters import JobSpec, TaskName
from finetune.errors import UserError
from finetune.training.step import Forward

_MAX_SHAPES = 64
"""Maximum number of batch shapes, each compiled separately; beyond it PyTorch would fall back to eager execution, which
changes the last bits of results."""


def check_compiler(spec: JobSpec, task: TaskName, device: torch.device) -> None:
    """Check that `torch.compile` works here by compiling a small function, if the job uses it.

    Raises:
        UserError: Compilation is not supported for the task or fails on this machine.
    """
    if not spec.run.compile:
        return
    if task == "text-classification":
        raise UserError(
            "compile=true is not supported for texts, because each length would be compiled separately. Remove compile."
        )
    try:
        torch.compile(torch.exp, dynamic=False)(torch.ones(64, device=device))
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"compile=true, but torch.compile fails in this container: {reason[:200]}. Remove compile, or use an image"
            " that contains a C++ compiler, Python's headers and, for GPUs, Triton."
        ) from error


def compile_forward(forward: Forward) -> Forward:
    """Compile the function separately for each input shape, on its first occurrence.

    A single kernel for all shapes would depend on the shape that came first, so the last bits of a resumed job would
    depend on the point of interruption.
    """
    torch._dynamo.config.recompile_limit = _MAX_SHAPES
    return torch.compile(forward, dynamic=False)
