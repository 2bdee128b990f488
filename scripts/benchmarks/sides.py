"""The sides of a comparison, each a process of its own: our job under the image's `train`, the Trainer, bare loops."""

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
from finetune.training.run_history import process_age
from sagemaker_simulator import Channel, TrainingRequest, lay_out

ROOT = Path(__file__).resolve().parents[2]
FIRST_STEP, EPOCH_DONE = "first batch trained", "epoch done"
TRAINED, RATE = "records trained since", "records per second by the device"
PASS_BEGINS, PASS_DONE = "the pass begins", "the pass is done"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Run:
    """A training that ended well.

    Attributes:
        seconds: from starting the process to its exit.
        first_step: seconds from starting it to the end of the first step.
        epochs: seconds from starting it to the end of each epoch.
        peak_mib: memory of all its processes.
        artifact: folder of the weights that came of it.
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
    place: Path, channels: Mapping[str, Path], hyperparameters: Mapping[str, str], environment: Mapping[str, str]
) -> Run:
    """Run the image's `train` on a fresh `/opt/ml`; its platform makes no archive and copies nothing meanwhile."""
    root = place / "opt-ml"
    shutil.rmtree(root, ignore_errors=True)
    request = TrainingRequest(
        channels=tuple(Channel(name, path) for name, path in channels.items()),
        hyperparameters=hyperparameters,
        checkpoint_path=None,
    )
    folder = lay_out(root, request)
    variables = {**_variables(), "PYTHONPATH": str(ROOT), "SAGEMAKER_BASE_DIR": str(folder.root)}
    variables |= environment
    watched = watch((sys.executable, str(ROOT / "container" / "train.py")), variables, folder.root)
    first, _ = watched.line(FIRST_STEP)
    epochs = tuple(when for when, text in watched.output if text.startswith("epoch ") and " took " in text)
    return Run(watched.seconds, first, epochs, watched.peak_mib, folder.model)


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """What a script with the Trainer is told.

    Attributes:
        kind: `pictures` or `texts`.
        train: folder of pictures, or a CSV.
        network: torchvision's name, or a folder of transformers.
        weights: state dict of a torchvision network.
        learns: `head`, `last layers` or `all`.
        rate: highest learning rate.
        output: folder for the weights.
        precision: of the other sides.
        bf16: whether the Trainer computes in bf16 instead of its default, fp32.
    """

    kind: str
    train: str
    network: str
    weights: str
    learns: str
    epochs: int
    batch: int
    rate: float
    output: str
    precision: Precision
    bf16: bool = False


def trainer_job(settings: TrainerSettings) -> Run:
    """Run a script with the Trainer in a process of its own."""
    output = Path(settings.output)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    watched = python(f"benchmarks.trainer_{settings.kind}", json.dumps(asdict(settings)))
    epochs = tuple(when for when, text in watched.output if text.startswith(EPOCH_DONE))
    return Run(watched.seconds, watched.line(FIRST_STEP)[0], epochs, watched.peak_mib, output)


def loop_rate(module: str, settings: TrainerSettings) -> float:
    """Run a bare loop in a process of its own; records per second after its first step."""
    watched = python(f"benchmarks.{module}", json.dumps(asdict(settings)))
    if any(text.startswith(RATE) for _, text in watched.output):
        return float(watched.line(RATE)[1].split()[0])
    done, records = watched.line(TRAINED)
    return int(records.split()[0]) / (done - watched.line(FIRST_STEP)[0])


def read_settings() -> TrainerSettings:
    """What the script was told, in the script."""
    return TrainerSettings(**json.loads(sys.argv[1]))


def tell(line: str) -> None:
    """Write a line at once, for whoever looks at the clock; in the script."""
    sys.stdout.write(f"{line} ({process_age():.1f} s)\n")
    sys.stdout.flush()


def python(module: str, *arguments: str) -> Watched:
    """Run a module of this folder in a process of its own."""
    variables = {**_variables(), "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'src'}"}
    return watch((sys.executable, "-P", "-m", module, *arguments), variables, ROOT)


def _variables() -> dict[str, str]:
    """Those of this process, but that Python keeps the bytecode of what a side imports, as an image has it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | _OFFLINE
