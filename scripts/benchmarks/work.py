"""Workloads for our job and for the Trainer: records, model, and trainable layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.image_task import ImageTask
from benchmarks.scoring import image_accuracy, text_accuracy
from benchmarks.sides import Run, TrainerSettings, our_job
from benchmarks.text_files import write_texts
from finetune.config.hyperparameters import Precision

HEAD, LAST_LAYERS, ALL = "head", "last layers", "all"
_RATES = {"images": 2e-4, "texts": 5e-5}
_HEAD_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training settings.

    Attributes:
        trainable_layers: trainable layers: `HEAD`, `LAST_LAYERS` (one group of a ResNet, two of MiniLM) or `ALL`.
        epochs: passes over the records.
        batch: records per step.
        precision: of our job and of the bare loop.
        trainer_bf16: whether the Trainer uses bf16; its default is fp32.
    """

    trainable_layers: str
    epochs: int
    batch: int
    precision: Precision = "auto"
    trainer_bf16: bool = False

    def strategy(self, groups: int) -> dict[str, str]:
        """The same settings as our hyperparameters."""
        if self.trainable_layers == LAST_LAYERS:
            return {"strategy": "partial", "unfrozen_groups": str(groups)}
        return {"strategy": "full" if self.trainable_layers == ALL else "feature_extraction"}


@dataclass(frozen=True, slots=True)
class Work:
    """One row of a table.

    Attributes:
        ours: hyperparameters beyond those that follow from `theirs`.
        theirs: settings of the Trainer.
        channels: of our job.
        accuracy: function from an artifact to its accuracy on held-out records.
        records: number of training records.
    """

    name: str
    ours: Mapping[str, str]
    theirs: TrainerSettings
    channels: Mapping[str, Path]
    accuracy: Callable[[Path], float]
    records: int

    def run_ours(self, environment: Mapping[str, str] | None = None, /, **more: str) -> Run:
        """Run our job, like the Trainer's without evaluation in training, with extra variables and hyperparameters."""
        settings = self.theirs
        hyperparameters = {
            **self.ours,
            "epochs": str(settings.epochs),
            "batch_size": str(settings.batch),
            "learning_rate": str(settings.rate),
            "validation_fraction": "0",
            "precision": settings.precision,
        }
        return our_job(Path(settings.output).parent / "ours", self.channels, hyperparameters | more, environment or {})

    def elsewhere(self, name: str) -> Work:
        """The same with its own folder, for several of our jobs at a time."""
        folder = Path(self.theirs.output).parent / name
        return replace(self, theirs=replace(self.theirs, output=str(folder / "trainer")))


def image_work(task: ImageTask, model: str, recipe: Recipe) -> Work:
    """A torchvision model with random weights, trained on images."""
    weights = task.weights(model)
    rate = _HEAD_RATE if recipe.trainable_layers == HEAD else _RATES["images"]
    output = task.folder / "trainer"
    return Work(
        name=f"{model}, {recipe.trainable_layers}",
        ours={"model_name": model, **recipe.strategy(1)},
        theirs=TrainerSettings(
            "images",
            str(task.train),
            model,
            str(weights),
            recipe.trainable_layers,
            recipe.epochs,
            recipe.batch,
            rate,
            str(output),
            recipe.precision,
            recipe.trainer_bf16,
        ),
        channels={"train": task.train, "model": weights.parent},
        accuracy=lambda artifact: image_accuracy(artifact, model, task.held_out),
        records=task.count,
    )


def text_work(folder: Path, count: int, recipe: Recipe, longest: int = 0) -> Work:
    """A pretrained MiniLM, trained to classify docstrings by package, with at most `longest` characters each."""
    files = write_texts(folder, count, longest)
    rate, output = _RATES["texts"], folder / "trainer"
    return Work(
        name=f"MiniLM, {recipe.trainable_layers}",
        ours={"label_column": "label", **recipe.strategy(2)},
        theirs=TrainerSettings(
            "texts",
            str(files.train),
            str(files.model),
            "",
            recipe.trainable_layers,
            recipe.epochs,
            recipe.batch,
            rate,
            str(output),
            recipe.precision,
            recipe.trainer_bf16,
        ),
        channels={"train": files.train.parent, "model": files.model},
        accuracy=lambda artifact: text_accuracy(artifact, files.held_out),
        records=count,
    )
