"""Amounts of work to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.image_task import SEEN, write_images
from benchmarks.machine import on_gpu
from benchmarks.work import Recipe, Work, image_work, text_work
from finetune.config.hyperparameters import Precision


@dataclass(frozen=True, slots=True)
class Scale:
    """Amounts of work, by default an hour's worth on two cores.

    Attributes:
        images: number of images for feature extraction, also with the Trainer.
        seen_images: number of images that batch normalization has seen before training.
        many_images: the same without the Trainer; 0 for none.
        models: models for feature extraction; the last one is also used with trainable layers.
        epochs: for feature extraction.
        long: whether to measure the Trainer's time for more epochs, instead of extrapolating it.
        learning_images: number of training images with trainable layers.
        texts: number of training texts.
        longest_text: number of characters at which texts are truncated; 0 for no limit.
        batch: records per step with trainable layers; 8 is the Trainer's default.
        partial_epochs: for training the last layers.
        full_epochs: for training all layers.
        seeds: for the accuracy.
        seed_records: number of training records for each seed.
        repeats: runs of each side; medians are reported.
        turns: runs of ours and of the bare script in feature extraction, for each of the Trainer.
        starts: of each side, for the time to the first step.
        precision: of our jobs and of the bare loops.
        trainer_bf16: whether the Trainer uses bf16; its default is fp32.
        thorough: whether to run ours once more without a cache.
    """

    images: int = 300
    seen_images: int = SEEN
    many_images: int = 1200
    models: tuple[str, ...] = ("resnet18", "resnet50")
    epochs: tuple[int, ...] = (5, 30)
    long: bool = False
    learning_images: int = 96
    texts: int = 200
    longest_text: int = 0
    batch: int = 8
    partial_epochs: int = 5
    full_epochs: int = 2
    seeds: int = 5
    seed_records: int = 96
    repeats: int = 1
    turns: int = 1
    starts: int = 3
    precision: Precision = "auto"
    trainer_bf16: bool = False
    thorough: bool = True

    def recipe(self, trainable_layers: str, epochs: int, batch: int | None = None) -> Recipe:
        """The training settings in this precision; `batch` defaults to that of trainable layers."""
        return Recipe(trainable_layers, epochs, batch or self.batch, self.precision, self.trainer_bf16)

    def both(self, folder: Path, recipe: Recipe) -> tuple[Work, Work]:
        """The usual pair: the last of the ResNets and MiniLM."""
        task = write_images(folder / "images", self.learning_images, self.seen_images)
        texts = text_work(folder / "texts", self.texts, recipe, self.longest_text)
        return image_work(task, self.models[-1], recipe), texts

    @property
    def arithmetic(self) -> str:
        """Precision of both sides, for a title."""
        return f"precision {self.precision}, the Trainer in {'bf16' if self.trainer_bf16 else 'its default, fp32'}"


_QUICK = Scale(
    images=4,
    seen_images=2,
    many_images=0,
    models=("resnet18",),
    epochs=(2,),
    learning_images=4,
    texts=8,
    longest_text=100,
    batch=4,
    partial_epochs=2,
    full_epochs=2,
    seeds=2,
    seed_records=8,
    starts=1,
    thorough=False,
)
_ON_GPU = Scale(
    images=4000,
    many_images=0,
    learning_images=4000,
    texts=8000,
    batch=64,
    seed_records=1000,
)


def scale_of(*, quick: bool) -> Scale:
    """The default scale for this machine; the quick one only checks that everything runs, with meaningless results."""
    if quick:
        return _QUICK
    return _ON_GPU if on_gpu() else Scale()
