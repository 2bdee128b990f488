"""What do frozen layers cost over several epochs, beside the Trainer and beside one bare pass?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models import get_model

from finetune.data.images import ImageGeometry, decode_image, resize_and_crop
from sagemaker_simulator import Channel, Storage, TrainingJob, TrainingRequest, run_job, toolkit_command

NETWORKS = ("resnet18", "resnet50")
EPOCHS = (5, 30)
CORES = 2
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures of 500 x 375 in folders by class, and a network with random weights, which cost as much as others."""

    place: Path
    network: str

    @property
    def pictures(self) -> Path:
        """The folder of all classes."""
        return self.place / "pictures"

    @property
    def weights(self) -> Path:
        """The network's state dict."""
        return self.place / self.network / f"{self.network}.pth"


def make_task(place: Path, network: str, count: int) -> Task:
    """Write the pictures, where they are not there yet, and the network."""
    task = Task(place, network)
    for number in range(0 if not task.pictures.exists() else count, count):
        draw = np.random.default_rng(number)
        small = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        folder = task.pictures / f"class-{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
    task.weights.parent.mkdir(parents=True)
    torch.save(get_model(network, weights=None).state_dict(), task.weights)
    return task


def bare_pass(task: Task) -> float:
    """Seconds for decoding every picture and one pass of the network over them, in this process."""
    network, geometry = get_model(task.network, weights=None).eval(), ImageGeometry(224, 256, "bilinear")
    files = sorted(task.pictures.rglob("*.jpg"))
    began = time.monotonic()
    pixels = [resize_and_crop(decode_image(path.read_bytes()), geometry) for path in files]
    with torch.inference_mode():
        for start in range(0, len(pixels), _BATCH):
            network(torch.stack(pixels[start : start + _BATCH]).float())
    return time.monotonic() - began


def our_job(task: Task, epochs: int, *more: tuple[str, str]) -> float:
    """Seconds for a whole job, from starting the process to its end."""
    root = task.place / "opt-ml"
    shutil.rmtree(root, ignore_errors=True)
    request = TrainingRequest(
        channels=(Channel("train", task.pictures), Channel("model", task.weights.parent)),
        hyperparameters={
            "model_name": task.network,
            "strategy": "feature_extraction",
            "epochs": str(epochs),
            "validation_fraction": "0",
            **dict(more),
        },
        environment={"SAGEMAKER_TRAINING_MODULE": "finetune.entry:main", "HF_HUB_OFFLINE": "1"},
    )
    began = time.monotonic()
    result = run_job(TrainingJob(request, toolkit_command(), Storage(task.place / "s3")), root)
    if result.exit_code:
        raise RuntimeError(result.log_text())
    return time.monotonic() - began


def trainer_job(task: Task, epochs: int) -> float:
    """Seconds for the same with the Trainer, from starting the process to its end."""
    output = task.place / "trainer"
    output.mkdir(exist_ok=True)
    arguments = [str(task.pictures), task.network, str(task.weights), str(epochs), str(output)]
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.trainer_pictures", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - began


def measure(networks: Sequence[str] = NETWORKS, epochs: Sequence[int] = EPOCHS, count: int = 400) -> list[str]:
    """Rows of a table: seconds of ours, of the Trainer and of one bare pass, and their ratios."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-features-") as place:
        for network in networks:
            task = make_task(Path(place), network, count)
            bare = bare_pass(task)
            for number in epochs:
                ours, theirs = our_job(task, number), trainer_job(task, number)
                rows.append(
                    f"| {network}, {count} pictures, {number} epochs | {ours:.1f} s | {theirs:.1f} s |"
                    f" {theirs / ours:.1f} x | {bare:.1f} s | {ours / bare:.2f} x |"
                )
                sys.stdout.write(rows[-1] + "\n")
                sys.stdout.flush()
    return rows


def main() -> None:
    """Measure on two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    sys.stdout.write(
        "| work | ours | Trainer | Trainer / ours | one bare pass | ours / bare pass |\n|---|---|---|---|---|---|\n"
    )
    measure()
