"""Defines `ModelRequest`: hyperparameters, classes and weight locations of the requested model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.config.hyperparameters import ModelSpec, ProblemType, TaskName


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Inputs that determine the model to build and its weights.

    Attributes:
        spec: name, head and dropout as given by the user.
        task: classification task.
        labels: class names in the order of the logits.
        problem_type: meaning of the outputs.
        pretrained: False builds the same model with random weights.
        image_size: side of the square input in pixels; None for the default of the weights.
        max_length: maximum sequence length in tokens; None for the default of the model.
        seed: seed of all random weights.
        model_channel: folder of the `model` channel, if there is one.
        baked_weights: folder of weights in the container image, if there is one.
        scratch: folder for unpacked archives; created when needed.
        trained: False if the model is evaluated without training, so that a new head would predict at random.
        sixteen_bit_depth: bits used by the 16-bit grayscale images of the data; None if there are none.
        labels_ordered: whether the user gave the labels in the order of the outputs; else they come from the data, in
            any order.
    """

    spec: ModelSpec
    task: TaskName
    labels: tuple[str, ...]
    problem_type: ProblemType
    pretrained: bool
    image_size: int | None
    max_length: int | None
    seed: int
    model_channel: Path | None
    baked_weights: Path | None
    scratch: Path
    trained: bool = True
    sixteen_bit_depth: int | None = None
    labels_ordered: bool = False
