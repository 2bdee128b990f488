"""Defines `Backbone`, the interface of a pretrained model with its head, and the types that it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_SHOWN = 4
_IMAGE_BATCH_SIZES, _TEXT_BATCH_SIZES = {"cpu": 16, "cuda": 64}, {"cpu": 8, "cuda": 32}
_MIN_IMAGE_BATCH_SIZE, _BASE_IMAGE_SIZE = 4, 224

UNDIVIDED_GROUP = "encoder"
"""Name of the only layer group below the head of a model that cannot be split between its blocks."""
Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Image preprocessing of a model: resize, center crop, scale to 0..1, normalize.

    Attributes:
        modality: kind of records.
        is_augmentable: whether cached features can be those of augmented views.
        max_length: length of an input, 1 since images have no sequence dimension.
        size: side of the square crop, the input size of the model, in pixels.
        resize: length of the shorter side before the crop, in pixels; of both sides with `stretch`.
        interpolation: interpolation of the resize; always antialiased.
        mean: mean per RGB channel, of values in 0..1.
        std: standard deviation per RGB channel, of values in 0..1.
        sixteen_bit_depth: bits used by 16-bit grayscale images, such as 12 for values up to 4095; None if the model was
            not trained on such images.
        stretch: whether the image is resized to a square regardless of its aspect ratio.
        floor_crop: whether half of an odd margin is rounded down, as in transformers, rather than to even, as in
            torchvision.
    """

    modality: ClassVar[Literal["image", "text"]] = "image"
    is_augmentable: ClassVar[bool] = True
    max_length: ClassVar[int] = 1

    size: int
    resize: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sixteen_bit_depth: int | None = None
    stretch: bool = False
    floor_crop: bool = False

    def describe(self) -> str:
        """Return a description for the plan and the report."""
        return f"images of {self.size} x {self.size}"

    def preprocessing(self, texts_per_record: int) -> dict[str, object]:
        """Return the preprocessing in the artifact; JSON values."""
        del texts_per_record
        return asdict(self)

    def cache_key(self) -> object:
        """Return the JSON value by which the cache key of features depends on the preprocessing."""
        return asdict(self)

    def inference_batch_size(self, device_type: str) -> int:
        """Return the batch size of frozen layers, smaller for large images to limit memory.

        Features depend on it in their last bits, so it depends only on the request.
        """
        batch_size = _IMAGE_BATCH_SIZES[device_type]
        return min(batch_size, max(_MIN_IMAGE_BATCH_SIZE, batch_size * _BASE_IMAGE_SIZE**2 // self.size**2))


@dataclass(frozen=True, slots=True)
class TextInput:
    """Text preprocessing of a model.

    Attributes:
        modality: kind of records.
        is_augmentable: whether cached features can be those of augmented views.
        tokenizer: tokenizer of the model, with padding side and token set.
        max_length: maximum sequence length in tokens, including special tokens.
        vocabulary: number of embedded tokens; texts with a higher token id are refused. `None` for no limit.
        token_types: number of embedded token types; `None` if the model has none.
        borrowed_padding: whether the model skips trailing padding tokens although its configuration names none, so that
            a text ending in that token is classified by the token before it.
        added_padding: padding token that was set because the tokenizer has none; None if it has one.
    """

    modality: ClassVar[Literal["image", "text"]] = "text"
    is_augmentable: ClassVar[bool] = False

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    vocabulary: int | None = None
    token_types: int | None = None
    borrowed_padding: bool = False
    added_padding: str | None = None

    def describe(self) -> str:
        """Return a description for the plan and the report."""
        padding = (
            f", padded with {self.added_padding!r}: the tokenizer has no padding token" if self.added_padding else ""
        )
        return f"texts of up to {self.max_length} tokens{padding}"

    def preprocessing(self, texts_per_record: int) -> dict[str, object]:
        """Return the preprocessing in the artifact, besides the tokenizer's own files; JSON values."""
        return {"max_length": self.max_length, "texts_per_record": texts_per_record}

    def cache_key(self) -> object:
        """Return the JSON value by which the cache key of features depends on the preprocessing."""
        return self.max_length

    def inference_batch_size(self, device_type: str) -> int:
        """Return the batch size of frozen layers; features depend on it in their last bits."""
        return _TEXT_BATCH_SIZES[device_type]


ModelInput: TypeAlias = ImageInput | TextInput
"""Preprocessing of a model of any modality."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Consecutive layers of a model that are frozen and unfrozen together and share a learning rate.

    Attributes:
        name: unique name in the model, such as `layer4` or `head`.
        modules: roots of disjoint subtrees, in execution order.
        parameters: names of the group's own parameters in `Backbone.module.named_parameters()`.
    """

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a forward pass.

    Attributes:
        logits: `[batch, classes]`.
        auxiliary: in training mode only, (loss weight, logits `[batch, classes]`) of each auxiliary classifier.
    """

    logits: Tensor
    auxiliary: tuple[tuple[float, Tensor], ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Origin of a model's weights, and the tensors that were loaded.

    Attributes:
        source: description for messages, such as `model channel (artifact of an earlier job)` or `random`.
        loaded: names of the loaded parameters and buffers.
        newly_initialized: names of the newly initialized parameters and buffers, including the head's.
        unused: names of tensors in the source that the model does not have.
        labels: class names of the source's head, if it states them.
        kept_head: whether the source's head was kept.
        initialized_outside_head: names of `newly_initialized` outside the classifier, such as a pooler's; empty for
            random weights.
        warnings: log messages about choices made when reading the source.
    """

    source: str
    loaded: tuple[str, ...] = ()
    newly_initialized: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    kept_head: bool = False
    initialized_outside_head: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Summary for messages: the source, whether the head is new, and other newly initialized tensors."""
        new_head = "" if self.kept_head else ", new head"
        more = (
            ""
            if len(self.initialized_outside_head) <= _MAX_SHOWN
            else f" and {len(self.initialized_outside_head) - _MAX_SHOWN} more"
        )
        new = (
            f", newly initialized: {', '.join(self.initialized_outside_head[:_MAX_SHOWN])}{more}"
            if self.initialized_outside_head
            else ""
        )
        return f"{self.source}{new_head}{new}"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Information that the artifact needs to rebuild a model without this package.

    Attributes:
        framework: `torchvision`, `timm` or `transformers`.
        architecture: name for torchvision's `get_model` or timm's `create_model`, or class name in transformers.
        arguments: keyword arguments of the builder, JSON values only.
    """

    framework: Literal["torchvision", "timm", "transformers"]
    architecture: str
    arguments: Mapping[str, object] = field(default_factory=dict)


class SplitModel(Protocol):
    """A model split into a frozen prefix (`prefix`), whose outputs can be cached, and a trainable suffix (`suffix`).

    In evaluation mode `suffix(prefix(inputs))` equals the logits of `forward(inputs)` bit for bit. The suffix returns
    no auxiliary logits, since auxiliary classifiers read layers of the prefix.
    """

    @property
    def padding(self) -> Mapping[str, float]:
        """Padding value by feature name, for features with one row per token; else empty."""
        ...

    def prefix(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute features without gradients: tensors with one row per record.

        The layers of the prefix must be in evaluation mode.
        """
        ...

    def suffix(self, features: Mapping[str, Tensor]) -> Outputs:
        """Compute the model's outputs from features."""
        ...

    def fold_batchnorms(self, dtype: torch.dtype | None) -> SplitModel:
        """Return a copy with a faster prefix, whose batch normalizations are folded into convolutions.

        Features are unchanged up to rounding. The folded prefix has a copy of the current weights of its layers.

        Args:
            dtype: autocast dtype in which the prefix always runs; `None` without autocast.
        """
        ...


class Backbone(Protocol):
    """A model of any family. Inputs are those of `data.batches.Batch.inputs`, already on the module's device."""

    @property
    def name(self) -> str:
        """Name of the model as the user gives it, such as `resnet50`."""
        ...

    @property
    def module(self) -> nn.Module:
        """The whole model, including the head, with the parameter names of its framework."""
        ...

    @property
    def expects(self) -> ModelInput:
        """Preprocessing that the weights were trained with."""
        ...

    @property
    def weights(self) -> LoadedWeights:
        """Origin of the weights."""
        ...

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Return the ordered partition of the model from input to head; the last group is named `head`."""
        ...

    @property
    def classifier(self) -> nn.Linear:
        """The last layer of the head, which computes the logits; some models give it no bias."""
        ...

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Run the model.

        Args:
            inputs: `pixels` uint8 `[batch, 3, size, size]` (normalized here, on the device), or `input_ids` and
                `attention_mask` int64 `[batch, length]` and, if the model has them, `token_type_ids`.
        """
        ...

    def split(self, split_index: int) -> SplitModel:
        """Split the model before `layer_groups()[split_index]`; both parts share its layers.

        Args:
            split_index: split index, the number of groups in the prefix, from 1 to `len(layer_groups()) - 1`.
        """
        ...

    def describe(self) -> ModelDescription:
        """Return the information that the artifact needs to rebuild the model."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and all other files that the framework needs into an existing folder."""
        ...
