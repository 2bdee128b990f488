"""What does it cost that rules look at the steps, clocks run and metrics are written?"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.models import resnet50

from finetune.observe.rules.tensors import EVERY_STEPS, TensorWatch
from finetune.observe.tensorboard import EventFile
from finetune.observe.timing import Timing
from finetune.spec.rules import DEFAULTS

STEPS = 7
WRITES = 200


class Lesson:
    """A ResNet-50 that learns noise, looked at or not."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self.network = resnet50(num_classes=10).to(self.device)
        self.optimizer = torch.optim.AdamW([{"params": list(self.network.parameters()), "lr": 1e-4, "peak_lr": 1e-4}])
        self.watch = TensorWatch(self.network, self.optimizer, DEFAULTS, scaled=False, classes=10)
        self.pixels = torch.randn(16, 3, 128, 128, device=self.device)
        self.targets = torch.randint(0, 10, (16,), device=self.device)

    def step(self, *, looked_at: bool) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self.watch.begin(0 if looked_at else 1)
        loss = torch.nn.functional.cross_entropy(self.network(self.pixels), self.targets)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        if self.watch.looking:
            self.watch.graded()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.watch.updated(loss)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    lesson = Lesson()
    for looked_at in (False, True):
        lesson.step(looked_at=looked_at)
    # By turns, so that a busy machine slows both.
    pairs = [(lesson.step(looked_at=False), lesson.step(looked_at=True)) for _ in range(STEPS)]
    plain, looked = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"device                      {lesson.device}, {torch.get_num_threads()} threads")
    print(f"a step                      {plain * 1000:.1f} ms")
    print(f"a step that is looked at    {looked * 1000:.1f} ms")
    print(f"every {EVERY_STEPS}th is, in all        {(looked - plain) / plain / EVERY_STEPS:.2%}")
    print(f"clocks of a step            {clocks(lesson.device) * 1e6:.0f} us")
    with tempfile.TemporaryDirectory() as folder:
        events = EventFile(Path(folder))
        row = {"train:loss": 0.5, "train:accuracy": 0.5, "validation:loss": 0.5, "validation:accuracy": 0.5}
        print(f"an epoch for TensorBoard    {each(lambda: events.scalars(1, row)) * 1e6:.0f} us")


def clocks(device: torch.device) -> float:
    """Seconds for the clocks of a step."""
    timing = Timing(device)

    def once() -> None:
        for part in ("forward", "backward", "update"):
            with timing.device(part):
                pass
        with timing.host("save"):
            pass
        timing.step_done()

    return each(once)


def each(call: Callable[[], object]) -> float:
    """Mean seconds of a call."""
    began = time.perf_counter()
    for _ in range(WRITES):
        call()
    return (time.perf_counter() - began) / WRITES
