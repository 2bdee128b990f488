"""Cost of a checkpoint for the training steps that run during it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.models import resnet50

from finetune.checkpoint import BackgroundWriter, CheckpointInfo, CheckpointStore, SnapshotBuffers, Specification

STEPS = 6
SAVES = 4


@dataclass(frozen=True, slots=True)
class SaveCost:
    """Medians, in seconds.

    Attributes:
        step: of a step without a write.
        step_meanwhile: of a step during a write.
        stall: for which a step waits for the copy.
        write: from the copy to a complete checkpoint.
        worked: CPU time during that.
    """

    megabytes: float
    step: float
    step_meanwhile: float
    stall: float
    write: float
    worked: float

    def share(self, interval: float) -> float:
        """Share of the training time taken by one checkpoint per interval: the stall, and slower steps."""
        slower = max(0.0, 1 - self.step / self.step_meanwhile) * self.write
        return (self.stall + slower) / interval


class TrainingLoop:
    """A ResNet-50 trained on noise."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = resnet50(num_classes=10).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.pixels = torch.randn(8, 3, 96, 96, device=self.device)
        self.targets = torch.randint(0, 10, (8,), device=self.device)

    def step(self) -> float:
        """Seconds of one step."""
        began = time.monotonic()
        torch.nn.functional.cross_entropy(self.model(self.pixels), self.targets).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - began

    def parts(self) -> Mapping[str, Any]:
        """The state to save."""
        return {"weights": self.model, "optimizer": self.optimizer}


def measure_save_cost(folder: Path) -> SaveCost:
    """Train for a while, saving repeatedly in the background."""
    loop = TrainingLoop()
    loop.step()
    alone = [loop.step() for _ in range(STEPS)]
    buffers, stalls, writes, worked, beside = SnapshotBuffers(), [], [], [], []
    store = CheckpointStore(folder)
    with BackgroundWriter(store) as writer:
        for number in range(SAVES):
            began, seconds, cpu_seconds = time.monotonic(), writer.seconds, writer.cpu_seconds
            snapshot = buffers.take(loop.parts())
            stalls.append(time.monotonic() - began)
            writer.submit(snapshot, CheckpointInfo(number, "periodic", Specification.of({})))
            while writer.busy:
                beside.append(loop.step())
            writer.wait()
            writes.append(writer.seconds - seconds)
            worked.append(writer.cpu_seconds - cpu_seconds)
            alone += [loop.step() for _ in range(2)]
    newest = store.folder / str(store.names()[0])
    size = sum(entry.stat().st_size for entry in os.scandir(newest)) / 1e6
    median = statistics.median
    # The first copy also allocates the buffers for the later ones.
    return SaveCost(size, median(alone), median(beside), median(stalls[1:]), median(writes), median(worked))
