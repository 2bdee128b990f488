"""What do a restart, a checkpoint and a SIGTERM cost?"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.our_job import OurJob
from benchmarks.save_cost import SaveCost, measure_save_cost
from benchmarks.text_task import TextTask, write_task

POSITIONS = (10, 1_000, 100_000)
REPEATS = 3
RECORDS = 110_000
BATCH_SIZE = 1


@dataclass(frozen=True, slots=True)
class Resumed:
    """Seconds from the start of the process to the end of its first new step, at one position."""

    position: int
    ours: float
    theirs: float


def main() -> None:
    """Measure, and print the tables of docs/benchmarks.md."""
    with tempfile.TemporaryDirectory(prefix="benchmark-resume-") as folder:
        task = write_task(Path(folder), RECORDS, BATCH_SIZE)
        ours = OurJob(task, Path(folder) / "ours")
        theirs = Path(folder) / "theirs"
        fresh = Resumed(0, ours.first_start(), trainer(task, theirs, "-"))
        print(fresh, file=sys.stderr, flush=True)
        rows = [fresh, *(measure(position, ours, task, theirs) for position in POSITIONS)]
        report(rows, ours.stop_seconds, measure_save_cost(Path(folder) / "saves"))


def measure(position: int, ours: OurJob, task: TextTask, theirs: Path) -> Resumed:
    """Medians, the two taking turns so that both see the same machine."""
    checkpoint = trainer_at(position, task, theirs)
    pairs = [(ours.resume_at(position), trainer(task, theirs, str(checkpoint))) for _ in range(REPEATS)]
    print(position, pairs, file=sys.stderr, flush=True)
    return Resumed(position, *(statistics.median(seconds) for seconds in zip(*pairs, strict=True)))


def trainer(task: TextTask, output: Path, checkpoint: str) -> float:
    """Start the Trainer's job in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.trainer_job", str(task.table), str(task.network)]
    finished = subprocess.run(
        [*command, str(output), str(task.batch_size), checkpoint], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds: float = json.loads(finished.stdout.splitlines()[-1])["seconds"]
    return seconds


def trainer_at(position: int, task: TextTask, output: Path) -> Path:
    """Its checkpoint of step 10, with another number of the step in it: training for 100,000 would take an hour."""
    first, checkpoint = output / "checkpoint-10", output / f"checkpoint-{position}"
    if not checkpoint.exists():
        shutil.copytree(first, checkpoint)
    state = json.loads((first / "trainer_state.json").read_text("utf-8"))
    state |= {"global_step": position, "epoch": position / task.steps_per_epoch}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    return checkpoint


def report(rows: list[Resumed], stop_seconds: list[float], save: SaveCost) -> None:
    """Print tables in Markdown."""
    load = os.getloadavg()[0]
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}; medians of {REPEATS}\n")
    print("| position | ours, s | Trainer, s | Trainer / ours | ours / own fresh start | Trainer / own fresh start |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        name = "fresh start" if row.position == 0 else f"step {row.position:,}"
        relative = f"{row.ours / rows[0].ours:.2f} | {row.theirs / rows[0].theirs:.2f}"
        print(f"| {name} | {row.ours:.1f} | {row.theirs:.1f} | {row.theirs / row.ours:.2f} | {relative} |")
    print(f"\nSIGTERM to exit: median {statistics.median(stop_seconds):.1f} s, most {max(stop_seconds):.1f} s")
    print(f"\nA checkpoint of {save.megabytes:.0f} MB (ResNet-50 with AdamW), beside steps of {save.step:.2f} s:")
    print(f"- a step waits {save.stall * 1000:.0f} ms for the copy, {save.stall / save.step:.1%} of a step")
    print(f"- writing takes {save.write:.2f} s beside training, {save.worked:.2f} s of them of one core")
    print(f"- steps meanwhile take {save.step_meanwhile / save.step:.2f} times as long")
    print(f"- at the least interval of 30 s: {save.share(30.0):.2%} of the job's time")
