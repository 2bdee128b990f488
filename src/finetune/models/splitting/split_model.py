"""Splits image and text models; features are an image's activation, or a text's activation with its mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from finetune.models.backbone import Backbone, ImageInput, Outputs
from finetune.models.splitting.split_module import SplitNetwork

_EXAMPLE_LENGTH = 5
ACTIVATION = "activation"
_MASK = "attention_mask"
_TOKENS = "input_ids"


@dataclass(frozen=True, slots=True)
class SplitImageModel:
    """Split of an image model; the feature is the single activation at the split. See `Cut`.

    Attributes:
        split: frozen prefix and trainable suffix.
        normalise: converts `pixels` to the input of the model.
        argument: keyword of the model's input, or empty for its first positional argument.
        example: model input of one record.
        padding: empty, since all activations have the same shape.
    """

    split: SplitNetwork
    normalise: Any
    argument: str
    example: Tensor
    padding: Mapping[str, float] = field(default_factory=dict)

    def prefix(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the activations, one row per image."""
        pixels = self.normalise(inputs)
        return {ACTIVATION: self.split.prefix(lambda network: _run(network, pixels, self.argument))}

    def suffix(self, features: Mapping[str, Tensor]) -> Outputs:
        """Compute the outputs from activations."""
        output = self.split.suffix(lambda network: _run(network, self.example, self.argument), features[ACTIVATION])
        return Outputs(output if isinstance(output, Tensor) else output.logits)

    def folded(self, dtype: torch.dtype | None) -> SplitImageModel:
        """Return a copy with the prefix's batch normalizations folded into convolutions."""
        return replace(self, split=self.split.folded(dtype))


def _run(network: Any, pixels: Tensor, argument: str) -> Any:  # noqa: ANN401 - frameworks differ
    return network(**{argument: pixels}) if argument else network(pixels)


def split_image_model(backbone: Backbone, border: int, normalise: Any, argument: str = "") -> SplitImageModel:  # noqa: ANN401 - any callable
    """Split a model whose input is `pixels`; `border` is the split index."""
    expects = backbone.expects
    if not isinstance(expects, ImageInput):
        raise TypeError("a text has no pixels")
    shape, generator = (1, 3, expects.size, expects.size), torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    example = normalise({"pixels": noise.to(next(backbone.module.parameters()).device)})
    groups = backbone.layer_groups()
    split = SplitNetwork(backbone.module, groups, border, lambda network: _run(network, example, argument))
    return SplitImageModel(split, normalise, argument, example)


@dataclass(frozen=True, slots=True)
class SplitTextModel:
    """Split of a text model; the features are a text's hidden states with mask and token ids. See `Cut`.

    Attributes:
        split: frozen prefix and trainable suffix.
        known: names of the inputs that the model accepts.
        reads_first: whether the suffix reads only the first token, so that only its hidden state is cached.
        pooled: whether the activation at the split is a single vector per text.
        padding: padding value of each feature for shorter texts.
    """

    split: SplitNetwork
    known: tuple[str, ...]
    reads_first: bool
    pooled: bool
    padding: Mapping[str, float]

    def prefix(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute hidden states `[batch, length, width]` with mask and token ids, or only `[batch, width]`."""
        given = {name: inputs[name] for name in self.known if name in inputs}
        activation = self.split.prefix(lambda network: network(**given))
        if self.pooled:
            return {ACTIVATION: activation}
        if self.reads_first:
            return {ACTIVATION: activation[:, 0].contiguous()}
        return {ACTIVATION: activation, _MASK: inputs[_MASK], _TOKENS: inputs[_TOKENS]}

    def suffix(self, features: Mapping[str, Tensor]) -> Outputs:
        """Compute the outputs from hidden states."""
        activation = features[ACTIVATION]
        if self.reads_first:
            activation = activation.unsqueeze(1)
        shape = activation.shape[:2] if _MASK in features or self.reads_first else (len(activation), _EXAMPLE_LENGTH)
        ones = torch.ones(shape, dtype=torch.int64, device=activation.device)
        given = {_TOKENS: features.get(_TOKENS, ones), _MASK: features.get(_MASK, ones)}
        return Outputs(self.split.suffix(lambda network: network(**given), activation).logits)

    def folded(self, dtype: torch.dtype | None) -> SplitTextModel:
        """Return `self`: text models use layer normalization, whose statistics depend on the input."""
        del dtype
        return self


def split_text_model(backbone: Backbone, border: int, known: tuple[str, ...], *, first_token: bool) -> SplitTextModel:
    """Split a model whose inputs are token ids.

    Args:
        backbone: text model.
        border: split index, see `Backbone.cut`.
        known: names of the inputs that the model accepts.
        first_token: whether the head reads only the first token.
    """
    if isinstance(backbone.expects, ImageInput):
        raise TypeError("a picture has no tokens")
    device = next(backbone.module.parameters()).device
    tokens = torch.ones((1, _EXAMPLE_LENGTH), dtype=torch.int64, device=device)
    example = {_TOKENS: tokens, _MASK: tokens}
    groups = backbone.layer_groups()
    split = SplitNetwork(backbone.module, groups, border, lambda network: network(**example), _EXAMPLE_LENGTH)
    pooled = split.activation.dim() == 2
    reads_first = first_token and not pooled and border == len(groups) - 1
    pad = float(backbone.expects.tokenizer.pad_token_id)
    padding = {} if pooled or reads_first else {ACTIVATION: 0.0, _MASK: 0.0, _TOKENS: pad}
    return SplitTextModel(split, known, reads_first, pooled, padding)
