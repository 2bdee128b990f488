"""Cost of a restart, a checkpoint and a SIGTERM."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.our_job import OurJob
from benchmarks.save_cost import SaveCost, measure_save_cost
from benchmarks.text_task import TextTask, write_task

FRESH = 0
POSITIONS = (FRESH, 10, 1_000, 100_000)
MOST_ROUNDS = 5
LONGEST_SECONDS = 300.0
"""No new round starts after this; finishing the current one and measuring saves takes two more minutes."""
RECORDS = 110_000
BATCH_SIZE = 1


@dataclass(frozen=True, slots=True)
class Sides:
    """The two sides of the comparison, and their folders.

    Attributes:
        positions: number of steps done -> seconds of ours and of theirs, in pairs.
    """

    task: TextTask
    folder: Path
    positions: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def measure(self, position: int, ours: OurJob) -> None:
        """Start both at a position, one after the other, so that both run under the same machine load."""
        theirs = self.folder / "theirs"
        if position == FRESH:
            pair = ours.first_start(), trainer(self.task, theirs, "-")
        else:
            pair = ours.resume_at(position), trainer(self.task, theirs, str(trainer_at(position, self.task, theirs)))
        print(f"{name_of(position)}: ours {pair[0]:.1f} s, Trainer {pair[1]:.1f} s", file=sys.stderr, flush=True)
        self.positions.setdefault(position, []).append(pair)


def main(*, quick: bool) -> None:
    """Measure, and print the tables of docs/benchmarks.md."""
    machine.keep_to_cores()
    heading, began = machine.heading(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="benchmark-resume-") as folder:
        task = write_task(Path(folder), 2_000 if quick else RECORDS, BATCH_SIZE)
        positions = [position for position in POSITIONS if position < task.records]
        sides, stops = Sides(task, Path(folder)), []
        for number in range(1 if quick else MOST_ROUNDS):
            if time.monotonic() - began > LONGEST_SECONDS:
                break
            ours = OurJob(task, Path(folder) / f"ours-{number}")
            for position in positions:
                sides.measure(position, ours)
            stops += ours.stop_seconds
            shutil.rmtree(ours.folder)
        report(heading, sides.positions, stops, measure_save_cost(Path(folder) / "saves"))


def trainer(task: TextTask, output: Path, checkpoint: str) -> float:
    """Start the Trainer's job in a separate process."""
    command = [sys.executable, "-m", "benchmarks.trainer_job", str(task.table), str(task.model)]
    finished = subprocess.run(
        [*command, str(output), str(task.batch_size), checkpoint], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds: float = json.loads(finished.stdout.splitlines()[-1])["seconds"]
    return seconds


def trainer_at(position: int, task: TextTask, output: Path) -> Path:
    """Its checkpoint of step 10 with another step number: training for 100,000 steps would take an hour."""
    first, checkpoint = output / "checkpoint-10", output / f"checkpoint-{position}"
    if not checkpoint.exists():
        shutil.copytree(first, checkpoint)
    state = json.loads((first / "trainer_state.json").read_text("utf-8"))
    state |= {"global_step": position, "epoch": position / task.steps_per_epoch}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    return checkpoint


def name_of(position: int) -> str:
    """Description of a position."""
    return "fresh start" if position == FRESH else f"step {position:,}"


def report(
    heading: str, positions: dict[int, list[tuple[float, float]]], stop_seconds: list[float], save: SaveCost
) -> None:
    """Print tables in Markdown."""
    median = statistics.median
    print(f"\n{heading}; medians of {len(positions[FRESH])} rounds\n")
    print("| position | ours, s | Trainer, s | Trainer / ours, median (minimum to maximum) |")
    print("|---|---|---|---|")
    for position, pairs in positions.items():
        ours, theirs = (median(seconds) for seconds in zip(*pairs, strict=True))
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        ratio = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name_of(position)} | {ours:.1f} | {theirs:.1f} | {ratio} |")
    print(f"\nSIGTERM to exit: median {median(stop_seconds):.1f} s, maximum {max(stop_seconds):.1f} s")
    print(f"\nA checkpoint of {save.megabytes:.0f} MB (ResNet-50 with AdamW), steps of {save.step:.2f} s:")
    print(f"- a step waits {save.stall * 1000:.0f} ms for the copy, {save.stall / save.step:.1%} of a step")
    print(f"- writing takes {save.write:.2f} s in the background, {save.worked:.2f} s of CPU time")
    print(f"- steps during a save take {save.step_meanwhile / save.step:.2f} times as long")
    print(f"- at the minimum interval of 30 s: {save.share(30.0):.2%} of the job's time")
