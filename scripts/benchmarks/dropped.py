"""Cost of a text model's training step on a CPU with PyTorch's dropout and with our jobs' dropout."""

from __future__ import annotations

import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from benchmarks.scale import Scale
from benchmarks.table import begin, middle, row, say, times
from benchmarks.text_files import write_texts
from finetune.runtime.precision import choose_numerics
from finetune.training.kernels.cpu_attention import cpu_attention_kernels

_LENGTHS = (32, 128, 512)
_STEPS = 3


def measure(scale: Scale) -> None:
    """Print one row per length: steps of MiniLM with all layers trainable, interleaved."""
    from transformers import AutoModelForSequenceClassification

    cpu = torch.device("cpu")
    numerics = choose_numerics(scale.precision, cpu)
    begin("Dropout on a CPU", ("tokens", "ours, s", "PyTorch's, s", "PyTorch's / ours"))
    with tempfile.TemporaryDirectory(prefix="benchmark-dropped-") as folder:
        model = AutoModelForSequenceClassification.from_pretrained(write_texts(Path(folder), 2).model)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(length: int, context: AbstractContextManager[object]) -> float:
        tokens = torch.randint(1000, 20_000, (scale.batch, length))
        began = time.perf_counter()
        with numerics.context(), context:
            logits = model(input_ids=tokens).logits
        loss = nn.functional.cross_entropy(logits.float(), torch.zeros(scale.batch, dtype=torch.int64))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    for length in _LENGTHS:
        ours, theirs = [], []
        for turn in range(1 + _STEPS * scale.repeats):
            pair = step(length, cpu_attention_kernels(cpu)), step(length, nullcontext())
            if turn:
                ours.append(pair[0])
                theirs.append(pair[1])
        row((str(length), middle(ours, 3), middle(theirs, 3), times(theirs, ours)))
    say(
        f"\nBatches of {scale.batch} texts, medians of {_STEPS * scale.repeats} steps, forward, backward and update,"
        f" in {numerics.name}, after one warm-up step."
    )
