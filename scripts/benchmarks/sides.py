"""The sides of a comparison, each in a separate process: our job under the image's `train`, the Trainer, bare loops."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.watched_process import Watched, watch
from finetune.config.hyperparameters import Precision
from finetune.training.saved_state.run_history import process_age
from sagemaker_simulator import Channel, TrainingRequest, lay_out

ROOT = Path(__file__).resolve().parents[2]
FIRST_STEP, EPOCH_DONE = "first batch trained", "epoch done"
TRAINED, RATE = "records trained since", "records per second by the device"
PASS_BEGINS, PASS_DONE = "the pass begins", "the pass is done"
TRAINABLE_IMAGE_LAYERS: Mapping[str, tuple[str, ...]] = {"head": (), "last layers": ("layer4",), "all": ("",)}
"""Beginnings of the names of the trainable parameters of a ResNet, besides the new head."""
TRAINABLE_TEXT_LAYERS: Mapping[str, tuple[str, ...]] = {
    "head": ("pooler",),
    "last layers": ("encoder.layer.4.", "encoder.layer.5.", "pooler"),
    "all": ("",),
}
"""The same for MiniLM, besides the classifier."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Run:
    """A successful training run.

    Attributes:
        seconds: from starting the process to its exit.
        first_step: seconds from starting it to the end of the first step.
        epochs: seconds from starting it to the end of each epoch.
        peak_mib: memory of all its processes.
        artifact: folder of the resulting weights.
    """

    seconds: float
    first_step: float
    epochs: tuple[float, ...]
    peak_mib: float
    artifact: Path

    def rate(self, records: int, batch: int) -> float:
        """Records per second from the end of the first step to the end of the last epoch."""
        return (records * len(self.epochs) - min(batch, records)) / (self.epochs[-1] - self.first_step)


def our_job(
    folder: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str], environment: Mapping[str, str]
) -> Run:
    """Run the image's `train` on a new `/opt/ml`, without archiving the model or syncing checkpoints."""
    root = folder / "opt-ml"
    shutil.rmtree(root, ignore_errors=True)
    request = TrainingRequest(
        channels=tuple(Channel(name, path) for name, path in channels.items()),
        hyperparameters=hyperparameters,
        checkpoint_path=None,
    )
    job_folder = lay_out(root, request)
    variables = {**_variables(), "PYTHONPATH": str(ROOT), "SAGEMAKER_BASE_DIR": str(job_folder.root)}
    variables |= environment
    watched = watch((sys.executable, str(ROOT / "container" / "train.py")), variables, job_folder.root)
    first, _ = watched.line(FIRST_STEP)
    epochs = tuple(when for when, text in watched.output if text.startswith("epoch ") and " took " in text)
    return Run(watched.seconds, first, epochs, watched.peak_mib, job_folder.model)


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """Settings of a script with the Trainer.

    Attributes:
        kind: `images` or `texts`.
        train: folder of images, or a CSV.
        model: torchvision's name, or a transformers folder.
        weights: state dict of a torchvision model.
        trainable_layers: trainable layers: `head`, `last layers` or `all`.
        rate: maximum learning rate.
        output: folder for the weights.
        precision: of the other sides.
        bf16: whether the Trainer uses bf16 instead of its default, fp32.
    """

    kind: str
    train: str
    model: str
    weights: str
    trainable_layers: str
    epochs: int
    batch: int
    rate: float
    output: str
    precision: Precision
    bf16: bool = False


def trainer_job(settings: TrainerSettings) -> Run:
    """Run a script with the Trainer in a separate process."""
    output = Path(settings.output)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    watched = python(f"benchmarks.trainer_{settings.kind}", json.dumps(asdict(settings)))
    epochs = tuple(when for when, text in watched.output if text.startswith(EPOCH_DONE))
    return Run(watched.seconds, watched.line(FIRST_STEP)[0], epochs, watched.peak_mib, output)


def loop_rate(module: str, settings: TrainerSettings) -> float:
    """Run a bare loop in a separate process; return records per second after its first step."""
    watched = python(f"benchmarks.{module}", json.dumps(asdict(settings)))
    if any(text.startswith(RATE) for _, text in watched.output):
        return float(watched.line(RATE)[1].split()[0])
    done, records = watched.line(TRAINED)
    return int(records.split()[0]) / (done - watched.line(FIRST_STEP)[0])


def read_settings() -> TrainerSettings:
    """Read the settings, within the script."""
    return TrainerSettings(**json.loads(sys.argv[1]))


def tell(line: str) -> None:
    """Print a line immediately, so that the reader can time it; used within the script."""
    sys.stdout.write(f"{line} ({process_age():.1f} s)\n")
    sys.stdout.flush()


def python(module: str, *arguments: str) -> Watched:
    """Run a module of this folder in a separate process."""
    paths = [str(ROOT / "scripts"), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**_variables(), "PYTHONPATH": ":".join(paths)}
    return watch((sys.executable, "-P", "-m", module, *arguments), variables, ROOT)


def _variables() -> dict[str, str]:
    """The variables of this process, with bytecode caching enabled, as in an image."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | _OFFLINE
