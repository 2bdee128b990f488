"""Cost of shards, of sums in a fixed order, and of their bytes; gain of two processes; seconds to the end of a job."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.device_steps import BATCH, SIDE, TOKENS, Cost, measure_in_processes
from benchmarks.image_task import write_images
from benchmarks.sides import ROOT
from benchmarks.table import begin, row, say
from benchmarks.turns import tree
from sagemaker_simulator import Channel, TrainingRequest, lay_out

_KINDS = ("ResNet-18", "MiniLM-size BERT")
_ELEMENTS = 11_000_000


def main(*, quick: bool) -> None:
    """Print all tables."""
    os.environ["OMP_NUM_THREADS"] = "1"
    rounds = 1 if quick else 3
    with tempfile.TemporaryDirectory(prefix="benchmark-devices-") as name:
        folder = Path(name)
        _shards(folder, rounds)
        _order(folder, rounds)
        _bytes(100_000 if quick else _ELEMENTS)
        _scaling(folder, rounds)
        _ends(folder, 1 if quick else 3)
    say(
        f"\nBatches of {BATCH} images of {SIDE} px or texts of {TOKENS} tokens, full steps with AdamW, one thread per"
        f" process. Variants take turns; medians of {rounds} rounds after one that is not counted. CPU seconds are"
        " those of all processes together."
    )


def _shards(folder: Path, rounds: int) -> None:
    begin("Shards of one process: CPU time compared with one batch", ("model", "one batch, s", *_counts()))
    for kind in _KINDS:
        costs = measure_in_processes(1, "shards", kind, rounds, folder)[0]
        bare = _cpu([costs["one batch"]])
        row((kind, f"{bare:.2f}", *(f"{_cpu([costs[count]]) / bare:.2f} x" for count in _counts())))


def _counts() -> tuple[str, ...]:
    return tuple(f"V={count}" for count in (1, 2, 4, 8))


def _order(folder: Path, rounds: int) -> None:
    begin("Two processes: fixed order compared with plain DDP", ("model", "DDP, CPU s", "CPU", "wall"))
    for kind in _KINDS:
        ranks = measure_in_processes(2, "order", kind, rounds, folder)
        plain, fixed = ([costs[name] for costs in ranks] for name in ("DDP", "fixed order"))
        cpu, wall = _cpu(fixed) / _cpu(plain), _wall(fixed) / _wall(plain)
        row((kind, f"{_cpu(plain):.2f}", f"{cpu:.2f} x", f"{wall:.2f} x"))


def _bytes(elements: int) -> None:
    begin("Bytes on the wire", ("processes", "MB sent per process", "of a ring all-reduce"))
    for size in (2, 4):
        ring = 2 * (size - 1) / size * elements * 4
        sent = bytes_per_process(size, elements)
        if sent is None:
            say("Needs the right to create a network namespace.")
            return
        row((str(size), f"{sent / 1e6:.1f}", f"{sent / ring:.3f} x"))


def bytes_per_process(size: int, elements: int) -> float | None:
    """Bytes that each process sends for one sum, with all protocol headers; `None` without a namespace."""
    program = 'ip link set lo up && exec "$0" -P -m benchmarks.device_steps "$@"'
    command = ("unshare", "--net", "sh", "-c", program, sys.executable, str(size), str(elements), "5")
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'src'}"}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return float(completed.stdout) if completed.returncode == 0 else None


def _scaling(folder: Path, rounds: int) -> None:
    begin("From one process to two", ("model", "work", "1 process, CPU s", "by CPU time", "by wall time"))
    for kind in _KINDS:
        one, two = (measure_in_processes(size, "scaling", kind, rounds, folder) for size in (1, 2))
        for name in ("evaluation", "training"):
            alone, together = [costs[name] for costs in one], [costs[name] for costs in two]
            # With a core for each process, the slowest one decides.
            slowest = max(_cpu([costs]) for costs in together)
            speed = (f"{_cpu(alone) / slowest:.2f} x", f"{_wall(alone) / _wall(together):.2f} x")
            row((kind, name, f"{_cpu(alone):.2f}", *speed))


def _cpu(ranks: Sequence[Sequence[Cost]]) -> float:
    return sum(statistics.median(cost.cpu for cost in costs) for costs in ranks)


def _wall(ranks: Sequence[Sequence[Cost]]) -> float:
    return max(statistics.median(cost.wall for cost in costs) for costs in ranks)


def _ends(folder: Path, repeats: int) -> None:
    images = write_images(folder / "images", 96).train
    begin("Seconds to the last exit of a job of two processes", ("event", "median", "longest"))
    for event, number, rank in (
        ("SIGTERM to the job", signal.SIGTERM, None),
        ("SIGTERM to one rank", signal.SIGTERM, 1),
        ("SIGKILL of one rank", signal.SIGKILL, 1),
        ("SIGKILL of the agent", signal.SIGKILL, None),
    ):
        seconds = [_seconds_to_end(folder, images, number, rank) for _ in range(repeats)]
        row((event, f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"))


def _seconds_to_end(folder: Path, images: Path, number: signal.Signals, rank: int | None) -> float:
    """Start a job, send a signal to its agent or a rank in training, and wait for all its processes."""
    shutil.rmtree(folder / "opt-ml", ignore_errors=True)
    settings = {"strategy": "from_scratch", "model_name": "resnet18", "epochs": "1000", "batch_size": "16"}
    settings |= {"image_size": "64", "processes_per_host": "2"}
    request = TrainingRequest(channels=(Channel("train", images),), hyperparameters=settings)
    job = lay_out(folder / "opt-ml", request)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "SAGEMAKER_BASE_DIR": str(job.root)}
    command = (sys.executable, "-m", "finetune")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None  # noqa: S101 - stdout is a pipe
        next(line for line in agent.stdout if line.startswith("first batch trained"))
        ranks = [process for process in tree(agent.pid) if process != agent.pid]
        began = time.monotonic()
        os.kill(agent.pid if rank is None else ranks[rank], number)
        agent.stdout.read()
        while any(_is_running(process) for process in ranks):
            time.sleep(0.01)
        agent.wait()
        return time.monotonic() - began


def _is_running(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "ZX"
    return False
