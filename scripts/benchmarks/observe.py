"""Cost of sampling steps for rules, saving tensors in a hook, timing and writing metrics."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from benchmarks.table import begin, row
from finetune.config.rules import DEFAULTS
from finetune.monitoring.debugger import Debugger, NoDebugger, create_debugger
from finetune.monitoring.metric_lines import metric_line
from finetune.monitoring.rules.tensors import CHECK_INTERVAL_STEPS, TensorWatch
from finetune.monitoring.tensorboard import EventFile
from finetune.monitoring.timing import Timing
from finetune.tasks.metrics import single_label_metrics

_CALLS = 200
_LOSSES_EVERY, _GRADIENTS_EVERY = 50, 500
_ROW = {"train:loss": 0.5, "train:accuracy": 0.5, "validation:loss": 0.5, "validation:accuracy": 0.5}


@dataclass(frozen=True, slots=True)
class Amount:
    """Amount of work to measure."""

    model: str = "resnet50"
    side: int = 128
    batch: int = 16
    rounds: int = 11
    records: int = 10_000


QUICK = Amount("resnet18", 32, 2, 1, 100)


class TrainingLoop:
    """A model trained on noise, with or without observation."""

    def __init__(self, amount: Amount, hook_configuration: Path | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self.model: nn.Module = get_model(amount.model, num_classes=10).to(self.device)
        self.optimizer = torch.optim.AdamW([{"params": list(self.model.parameters()), "lr": 1e-4, "peak_lr": 1e-4}])
        self.watch = TensorWatch(self.model, self.optimizer, DEFAULTS, scaled=False, classes=10)
        self.pixels = torch.randn(amount.batch, 3, amount.side, amount.side, device=self.device)
        self.targets = torch.randint(0, 10, (amount.batch,), device=self.device)
        self.hook: Debugger = create_debugger(hook_configuration, self.model)
        if hook_configuration is not None and isinstance(self.hook, NoDebugger):
            raise RuntimeError("smdebug's hook is not available: see the warning")
        self.hook.watch(self.optimizer)
        self.forward = self.hook.wrap_forward(self._forward)

    def step(self, number: int, *, looked_at: bool = False) -> float:
        """Seconds of one step, with `number` as its step number for the hook."""
        began = time.perf_counter()
        self.hook.begin_step(number, 0)
        self.watch.begin(0 if looked_at else 1)
        loss = nn.functional.cross_entropy(self.forward({"pixels": self.pixels}), self.targets)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        if self.watch.is_sampling:
            self.watch.after_backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.watch.after_step(loss)
        self.hook.end_step(loss.detach())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def _forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = self.model(inputs["pixels"])
        return output


def main(*, quick: bool = False) -> None:
    """Measure and print."""
    amount = QUICK if quick else Amount()
    with tempfile.TemporaryDirectory() as folder:
        _print_steps(amount, Path(folder))
        _print_rest(amount, Path(folder))


def _print_steps(amount: Amount, folder: Path) -> None:
    plain, hooked = TrainingLoop(amount), TrainingLoop(amount, _configuration(folder))
    # Steps of the hook: one that saves nothing, one that saves the loss, one that also saves the gradients.
    kinds: dict[str, Callable[[], float]] = {
        "plain": lambda: plain.step(1),
        "looked at": lambda: plain.step(1, looked_at=True),
        "hooked": lambda: hooked.step(1),
        "loss saved": lambda: hooked.step(_LOSSES_EVERY),
        "gradients saved": lambda: hooked.step(_GRADIENTS_EVERY),
    }
    for call in kinds.values():
        call()
    # Interleaved, so that a busy machine slows all of them.
    rounds = [{name: call() for name, call in kinds.items()} for _ in range(amount.rounds)]
    hooked.hook.close(finished=True)
    base = statistics.median(seconds["plain"] for seconds in rounds)
    begin("Cost of monitoring", ("measurement", "cost"))
    row((f"a step of {amount.model}, {amount.batch} images of {amount.side}", f"{base * 1000:,.0f} ms"))
    for name in list(kinds)[1:]:
        ratios = sorted(seconds[name] / seconds["plain"] for seconds in rounds)
        spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        row((f"a step, {name}", f"{statistics.median(ratios):.3f} x ({spread} in {len(ratios)} rounds)"))
    more = {name: statistics.median(seconds[name] - seconds["plain"] for seconds in rounds) / base for name in kinds}
    row((f"rules: every {CHECK_INTERVAL_STEPS}th step is sampled", f"{more['looked at'] / CHECK_INTERVAL_STEPS:+.2%}"))
    losses = more["hooked"] + (more["loss saved"] - more["hooked"]) / _LOSSES_EVERY
    row((f"hook: losses every {_LOSSES_EVERY} steps", f"{losses:+.2%}"))
    both = losses + (more["gradients saved"] - more["loss saved"]) / _GRADIENTS_EVERY
    row((f"hook: and all gradients every {_GRADIENTS_EVERY}", f"{both:+.2%}"))


def _configuration(folder: Path) -> Path:
    collections = [
        {"CollectionName": "losses", "CollectionParameters": {"save_interval": str(_LOSSES_EVERY)}},
        {"CollectionName": "gradients", "CollectionParameters": {"save_interval": str(_GRADIENTS_EVERY)}},
    ]
    path = folder / "debughookconfig.json"
    path.write_text(json.dumps({"LocalPath": str(folder / "tensors"), "CollectionConfigurations": collections}))
    return path


def _print_rest(amount: Amount, folder: Path) -> None:
    events = EventFile(folder / "tensorboard")
    row(("timing of a step", f"{clocks() * 1e6:.0f} us"))
    row(("log line of an epoch", f"{each(lambda: metric_line(1, _ROW)) * 1e6:.0f} us"))
    row(("metrics of an epoch for TensorBoard", f"{each(lambda: events.add_scalars(1, _ROW)) * 1e6:.0f} us"))
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(100), amount.records).astype(np.float32)
    targets, labels = draw.integers(0, 100, amount.records), [str(number) for number in range(100)]
    began = time.perf_counter()
    single_label_metrics(targets, probabilities, labels, top_k=5)
    row((f"all metrics of {amount.records:,} records, 100 classes, once", f"{time.perf_counter() - began:.2f} s"))


def clocks() -> float:
    """Seconds for the timing of a step."""
    timing = Timing(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def once() -> None:
        for part in ("forward", "backward", "update"):
            with timing.device(part):
                pass
        with timing.host("save"):
            pass
        timing.step_done(1)

    return each(once)


def each(call: Callable[[], object]) -> float:
    """Mean seconds per call."""
    began = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - began) / _CALLS
