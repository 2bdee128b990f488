"""A pretrained network with its head, as everything else in the job sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN_NAMES = 4

Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The pictures that a network was trained on: resized, centre-cropped, scaled to 0..1, normalised.

    Attributes:
        size: side of the square crop that enters the network, in pixels.
        resize: length of the shorter side before the crop, in pixels; of both sides with `stretch`.
        interpolation: of the resize; always antialiased.
        mean: per RGB channel, of values in 0..1.
        std: per RGB channel, of values in 0..1.
        sixteen_bit_depth: bits that 16-bit grey images use, such as 12 where their values end at 4095; None where the
            network was not trained on such images.
        stretch: whether the image is resized to a square, whatever its aspect ratio.
        floor_crop: whether half of an odd margin is rounded down, as in transformers, rather than to even, as in
            torchvision.
    """

    size: int
    resize: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sixteen_bit_depth: int | None = None
    stretch: bool = False
    floor_crop: bool = False


@dataclass(frozen=True, slots=True)
class TextInput:
    """The tokens that a network was trained on.

    Attributes:
        tokenizer: the network's own; its padding side and token are set.
        max_length: longest sequence in tokens, special tokens included.
        vocabulary: number of embedded tokens; a text with a higher token number is refused. `None` for any number.
        token_types: number of embedded token types; `None` where the network has none.
        borrowed_padding: whether the network skips padding tokens at the end of a text although its configuration names
            none, so that a text that ends in one is classified by the token before it.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    vocabulary: int | None = None
    token_types: int | None = None
    borrowed_padding: bool = False


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Consecutive layers of a network that are frozen, unfrozen and rated together.

    Attributes:
        name: unique inside the network, such as `layer4` or `head`.
        modules: roots of disjoint subtrees, in the order in which data passes them.
        parameters: names in `Backbone.module.named_parameters()` of exactly what this group owns.
    """

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward pass gives.

    Attributes:
        logits: `[batch, classes]`.
        auxiliary: while training only: (weight in the loss, logits `[batch, classes]`) of each auxiliary classifier.
    """

    logits: Tensor
    auxiliary: tuple[tuple[float, Tensor], ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Where weights came from, and what of the network they covered.

    Attributes:
        source: for people, such as `model channel (artifact of an earlier job)` or `random`.
        loaded: names of parameters and buffers that were loaded.
        fresh: names that were newly initialised, the head's among them.
        unused: names in the source that the network has no place for.
        labels: class names that the source's head distinguishes, where it says so.
        kept_head: whether the head is the source's own.
        initialized: names of `fresh` outside the classifier, such as a pooler's; empty for random weights.
        warnings: choices that were made among what the source holds, for the log.
    """

    source: str
    loaded: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    kept_head: bool = False
    initialized: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The source, a new head, and what else is newly initialized, for people."""
        new_head = "" if self.kept_head else ", new head"
        more = "" if len(self.initialized) <= _SHOWN_NAMES else f" and {len(self.initialized) - _SHOWN_NAMES} more"
        new = f", newly initialized: {', '.join(self.initialized[:_SHOWN_NAMES])}{more}" if self.initialized else ""
        return f"{self.source}{new_head}{new}"


@dataclass(frozen=True, slots=True)
class Description:
    """What the artifact must know to rebuild a network without our code.

    Attributes:
        framework: `torchvision` or `transformers`.
        architecture: torchvision's name for `get_model`, or transformers' class name.
        arguments: keyword arguments of the builder, JSON values only.
    """

    framework: Literal["torchvision", "transformers"]
    architecture: str
    arguments: Mapping[str, object] = field(default_factory=dict)


class Cut(Protocol):
    """A network in two halves: a front that stays as it is, whose outputs may be kept, and a back that may learn.

    In evaluation mode `back(front(inputs))` gives the logits of `forward(inputs)`, bit for bit. Auxiliary classifiers
    look at layers of the front, so the back gives none.
    """

    @property
    def padding(self) -> Mapping[str, float]:
        """Where features have a row per token: what is put behind a shorter record's rows, by name; else empty."""
        ...

    def front(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of records, without gradients: tensors with a row for each record.

        The layers of the front must be in evaluation mode.
        """
        ...

    def back(self, features: Mapping[str, Tensor]) -> Outputs:
        """What the network makes of features."""
        ...

    def folded(self, dtype: torch.dtype | None) -> Cut:
        """The same halves with a faster front, whose batch normalisations are folded into convolutions.

        Features are the same up to rounding. The front has weights of its own, those of its layers now.

        Args:
            dtype: of autocast, within which the front will always run; `None` without.
        """
        ...


class Backbone(Protocol):
    """A network of any family. Inputs are those of `data.batches.Batch.inputs`, already on the module's device."""

    @property
    def name(self) -> str:
        """What the user calls the network, such as `resnet50`."""
        ...

    @property
    def module(self) -> nn.Module:
        """The whole network, head included, with its framework's own parameter names."""
        ...

    @property
    def expects(self) -> ImageInput | TextInput:
        """The input that belongs to the weights."""
        ...

    @property
    def weights(self) -> LoadedWeights:
        """Where the weights came from."""
        ...

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """The ordered partition of the network from input to head; the last group is named `head`."""
        ...

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Run the network.

        Args:
            inputs: `pixels` uint8 `[batch, 3, size, size]` (normalised here, on the device), or `input_ids` and
                `attention_mask` int64 `[batch, length]` and, where the network has them, `token_type_ids`.
        """
        ...

    def cut(self, border: int) -> Cut:
        """Cut the network in front of `layer_groups()[border]`; both halves share its layers.

        Args:
            border: number of groups in the front, from 1 to `len(layer_groups()) - 1`.
        """
        ...

    def describe(self) -> Description:
        """What the artifact must know to rebuild the network."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and whatever the framework needs beside them into an existing folder."""
        ...
