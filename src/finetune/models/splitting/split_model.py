"""Splits image and text models; features are an image's activation, or a text's activation with its mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.backbone import Backbone, Outputs
from finetune.models.splitting.split_module import SplitModule, evaluation_mode
from finetune.models.structure import EXAMPLE_RECORDS

_EXAMPLE_LENGTH = 5
ACTIVATION = "activation"
_MASK = "attention_mask"
_INPUT_IDS = "input_ids"


@dataclass(frozen=True, slots=True)
class SplitImageModel:
    """Split of an image model; the feature is the single activation at the split. See `SplitModel`.

    Attributes:
        split: frozen prefix and trainable suffix.
        normalize: converts `pixels` to the input of the model.
        argument: keyword of the model's input, or empty for its first positional argument.
        example: model input of one record.
        padding: empty, since all activations have the same shape.
    """

    split: SplitModule
    normalize: Any
    argument: str
    example: Tensor
    padding: Mapping[str, float] = field(default_factory=dict)

    def prefix(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the activations, one row per image."""
        pixels = self.normalize(inputs)
        return {ACTIVATION: self.split.prefix(lambda model: _run(model, pixels, self.argument))}

    def suffix(self, features: Mapping[str, Tensor]) -> Outputs:
        """Compute the outputs from activations."""
        output = self.split.suffix(lambda model: _run(model, self.example, self.argument), features[ACTIVATION])
        return Outputs(output if isinstance(output, Tensor) else output.logits)

    def fold_batchnorms(self, dtype: torch.dtype | None) -> SplitImageModel:
        """Return a copy with the prefix's batch normalizations folded into convolutions."""
        return replace(self, split=self.split.fold_batchnorms(dtype))


def _run(model: Any, pixels: Tensor, argument: str) -> Any:  # noqa: ANN401 - frameworks differ
    return model(**{argument: pixels}) if argument else model(pixels)


def split_image_model(
    backbone: Backbone,
    split_index: int,
    normalize: Any,  # noqa: ANN401 - any callable
    *,
    image_size: int,
    argument: str = "",
) -> SplitImageModel:
    """Split a model whose input is `pixels`.

    Args:
        backbone: image model.
        split_index: split index, see `Backbone.split`.
        normalize: converts `pixels` to the input of the model.
        image_size: side of the images in pixels.
        argument: keyword of the model's input, or empty for its first positional argument.
    """
    example = normalize({"pixels": example_pixels(image_size).to(next(backbone.module.parameters()).device)})
    groups = backbone.layer_groups()
    split = SplitModule(backbone.module, groups, split_index, lambda model: _run(model, example, argument))
    return SplitImageModel(split, normalize, argument, example[:1])


def example_pixels(image_size: int) -> Tensor:
    """Return two images of noise, uint8 `[2, 3, image_size, image_size]`."""
    shape, generator = (EXAMPLE_RECORDS, 3, image_size, image_size), torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def example_tokens(vocabulary: int, final: int | None = None) -> Tensor:
    """Return two texts of five different tokens, int64 `[2, 5]`.

    Args:
        vocabulary: number of token ids.
        final: id of the token that ends each text, for heads that search for it.
    """
    others = [token for token in range(min(vocabulary, 2 * EXAMPLE_RECORDS * _EXAMPLE_LENGTH)) if token != final]
    count = EXAMPLE_RECORDS * _EXAMPLE_LENGTH
    tokens = torch.tensor((others * count)[-count:]).view(EXAMPLE_RECORDS, -1)
    if final is not None and 0 <= final < vocabulary:
        tokens[:, -1] = final
    return tokens


@dataclass(frozen=True, slots=True)
class SplitTextModel:
    """Split of a text model; the features are a text's hidden states with mask and token ids. See `SplitModel`.

    Attributes:
        split: frozen prefix and trainable suffix.
        input_names: names of the inputs that the model accepts.
        first_token_only: whether the suffix reads only the first token, so that only its hidden state is cached.
        pooled: whether the activation at the split is a single vector per text.
        padding: padding value of each feature for shorter texts.
        tokens: token ids `[1, length]` in place of those of texts whose features do not contain them.
    """

    split: SplitModule
    input_names: tuple[str, ...]
    first_token_only: bool
    pooled: bool
    padding: Mapping[str, float]
    tokens: Tensor

    def prefix(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute hidden states `[batch, length, width]` with mask and token ids, or only `[batch, width]`."""
        model_inputs = {name: inputs[name] for name in self.input_names if name in inputs}
        activation = self.split.prefix(lambda model: model(**model_inputs))
        if self.pooled:
            return {ACTIVATION: activation}
        if self.first_token_only:
            return {ACTIVATION: activation[:, 0].contiguous()}
        return {ACTIVATION: activation, _MASK: inputs[_MASK], _INPUT_IDS: inputs[_INPUT_IDS]}

    def suffix(self, features: Mapping[str, Tensor]) -> Outputs:
        """Compute the outputs from hidden states."""
        activation = features[ACTIVATION]
        if self.first_token_only:
            activation = activation.unsqueeze(1)
        tokens = self.tokens.expand(len(activation), -1)
        if self.first_token_only:
            tokens = tokens[:, :1]
        model_inputs = {
            _INPUT_IDS: features.get(_INPUT_IDS, tokens),
            _MASK: features.get(_MASK, torch.ones_like(tokens)),
        }
        return Outputs(self.split.suffix(lambda model: model(**model_inputs), activation).logits)

    def fold_batchnorms(self, dtype: torch.dtype | None) -> SplitTextModel:
        """Return `self`: text models use layer normalization, whose statistics depend on the input."""
        del dtype
        return self


def split_text_model(
    backbone: Backbone,
    split_index: int,
    input_names: tuple[str, ...],
    *,
    tokens: Tensor,
    pad_token_id: int,
) -> SplitTextModel:
    """Split a model whose inputs are token ids.

    Args:
        backbone: text model.
        split_index: split index, see `Backbone.split`.
        input_names: names of the inputs that the model accepts.
        tokens: token ids of an example, see `example_tokens`.
        pad_token_id: token id that pads shorter texts.
    """
    device = next(backbone.module.parameters()).device
    tokens = tokens.to(device)
    example = {_INPUT_IDS: tokens, _MASK: torch.ones_like(tokens)}
    groups = backbone.layer_groups()
    split = SplitModule(backbone.module, groups, split_index, lambda model: model(**example), _EXAMPLE_LENGTH)
    pooled = split.activation.dim() == 2
    first_token_only = (
        not pooled
        and split_index == len(groups) - 1
        and _reads_first_token(backbone.module, groups[-1].modules, split.activation, example)
    )
    padding = {} if pooled or first_token_only else {ACTIVATION: 0.0, _MASK: 0.0, _INPUT_IDS: float(pad_token_id)}
    return SplitTextModel(split, input_names, first_token_only, pooled, padding, tokens[:1])


def _reads_first_token(
    model: nn.Module, head: Iterable[nn.Module], states: Tensor, example: Mapping[str, Tensor]
) -> bool:
    """Return whether the layers of the head receive only the first of the hidden states `[batch, length, width]`."""
    inputs: list[Tensor] = []

    def record(_module: object, args: tuple[Any, ...]) -> None:
        inputs.extend(args[:1])

    layers = [layer for root in head for layer in root.modules() if next(layer.children(), None) is None]
    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(**example)
    finally:
        for handle in handles:
            handle.remove()
    return bool(inputs) and all(tensor.dim() == 2 for tensor in inputs) and torch.equal(inputs[0], states[:, 0])
