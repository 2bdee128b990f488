"""What a network is asked for: the user's wishes, the classes, and the places where its weights may lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.config.hyperparameters import ModelSpec, Task


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Everything that decides which network is built and from which weights.

    Attributes:
        spec: name, head and dropout as the user gave them.
        task: what the records are.
        labels: class names in the order of the logits.
        multi_label: whether a record may have several classes.
        pretrained: False builds the same network with random weights.
        image_size: side of the square input in pixels; None takes the one that belongs to the weights.
        max_length: longest sequence in tokens; None takes the one that belongs to the network.
        seed: decides every random weight.
        model_channel: folder of the `model` channel, where there is one.
        baked_weights: folder of weights that the image brings, where there is one.
        scratch: folder for unpacked archives; created when it is needed.
        trained: False where the network is evaluated as it is, so that a new head would answer at random.
        sixteen_bit_depth: bits that the 16-bit grey images of the data use; None where there are none.
        ordered: whether the user gave the labels in the order of the outputs, rather than the data in any.
    """

    spec: ModelSpec
    task: Task
    labels: tuple[str, ...]
    multi_label: bool
    pretrained: bool
    image_size: int | None
    max_length: int | None
    seed: int
    model_channel: Path | None
    baked_weights: Path | None
    scratch: Path
    trained: bool = True
    sixteen_bit_depth: int | None = None
    ordered: bool = False
