"""A classifier of pooled token states, for encoders that were trained with a pooling of all tokens."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.transformers.sentence_folder import (
    CLASSIFIER_FILE,
    MODULES_FILE,
    POOLING_FOLDER,
    DenseLayer,
    SentencePooling,
)
from finetune.models.weights.state_dict import StateDict

_MODULES = "sentence_transformers.models"


class Pooling(nn.Module):
    """Pools token states `[batch, length, width]` to one vector per text, as sentence-transformers does.

    Normalized vectors have the length sqrt(width), so that their values are about 1 as after a layer normalization,
    for which the learning rates of classifiers are meant.
    """

    def __init__(self, modes: tuple[str, ...], dense: nn.ModuleList, *, normalize: bool) -> None:
        super().__init__()
        self.modes, self.normalize = modes, normalize
        self.dense = dense

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return vectors `[batch, width]`."""
        vector = torch.cat([pool(states, mask, mode) for mode in self.modes], dim=1)
        for layer in self.dense:
            vector = layer(vector)
        return functional.normalize(vector, dim=1) * vector.shape[1] ** 0.5 if self.normalize else vector


def pool(states: Tensor, mask: Tensor, mode: str) -> Tensor:
    """Pool token states `[batch, length, width]` of texts padded on the right."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    if mode == "cls":
        return states[:, 0]
    if mode == "lasttoken":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    if mode == "max":
        return states.masked_fill(weights == 0, torch.finfo(states.dtype).min).amax(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


class _Dense(nn.Linear):
    """A linear layer with an activation; its parameter names are those of `nn.Linear`."""

    def __init__(self, layer: DenseLayer) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias)
        self.activation = getattr(nn, layer.activation)()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear names its argument so
        """Map `[batch, in_features]` to `[batch, out_features]`."""
        result: Tensor = self.activation(super().forward(input))
        return result


class PooledClassifier(nn.Module):
    """An encoder, a pooling, and a linear classifier, with the interface of transformers' classifiers."""

    base_model_prefix = "encoder"

    def __init__(self, encoder: Any, pooling: SentencePooling) -> None:  # noqa: ANN401 - untyped in transformers
        super().__init__()
        self.config, self.layout = encoder.config, pooling
        self.encoder = encoder
        dense = nn.ModuleList(_Dense(layer) for layer in pooling.dense)
        self.pooling = Pooling(pooling.modes, dense, normalize=pooling.normalize)
        width = int(self.config.hidden_size) * len(pooling.modes)
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(
            pooling.dense[-1].out_features if pooling.dense else width, int(self.config.num_labels)
        )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> SimpleNamespace:
        """Compute `logits` for token ids and masks `[batch, length]`."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        return SimpleNamespace(logits=self.classifier(self.dropout(self.pooling(states, attention_mask))))

    def save_pretrained(self, folder: Path, state_dict: Mapping[str, Tensor]) -> None:
        """Write a sentence-transformers folder, and the classifier beside it."""
        prefix = f"{self.base_model_prefix}."
        encoder = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        self.encoder.save_pretrained(folder, state_dict=encoder)
        head = {name: value for name, value in state_dict.items() if name.startswith("classifier.")}
        save_file(head, folder / CLASSIFIER_FILE, metadata={"format": "pt"})
        modules = [("", "Transformer"), (POOLING_FOLDER, "Pooling")]
        mode = self.layout.modes[0] if len(self.layout.modes) == 1 else list(self.layout.modes)
        pooling = {
            "word_embedding_dimension": int(self.config.hidden_size),
            "pooling_mode": mode,
            **{f"pooling_mode_{name}": own in self.layout.modes for name, own in _OLD_MODES.items()},
        }
        _write_module(folder / POOLING_FOLDER, pooling)
        for index, layer in enumerate(self.layout.dense):
            modules.append((f"{len(modules)}_Dense", "Dense"))
            activation = f"torch.nn.modules.{'linear' if layer.activation == 'Identity' else 'activation'}"
            content = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias}
            _write_module(
                folder / modules[-1][0], content | {"activation_function": f"{activation}.{layer.activation}"}
            )
            names = {f"linear.{name}": f"pooling.dense.{index}.{name}" for name in ("weight", "bias")}
            tensors = {name: state_dict[own] for name, own in names.items() if own in state_dict}
            save_file(tensors, folder / modules[-1][0] / "model.safetensors", metadata={"format": "pt"})
        if self.layout.normalize:
            modules.append((f"{len(modules)}_Normalize", "Normalize"))
        entries = [
            {"idx": index, "name": str(index), "path": path, "type": f"{_MODULES}.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ]
        (folder / MODULES_FILE).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


# Booleans that older versions of sentence-transformers read instead of `pooling_mode`.
_OLD_MODES = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "lasttoken": "lasttoken"}


def _write_module(folder: Path, content: Mapping[str, object]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class PooledClassifierBuilder:
    """Builds `PooledClassifier` with the interface of transformers' model classes.

    Attributes:
        encoder_class: transformers class of the encoder.
        pooling: what follows the encoder.
    """

    encoder_class: Any
    pooling: SentencePooling

    def __call__(self, config: Any) -> PooledClassifier:  # noqa: ANN401 - its fields differ by architecture
        """Build the model with random weights."""
        return PooledClassifier(self.encoder_class(config, **self._options()), self.pooling)

    def from_pretrained(
        self,
        name: None,
        *,
        config: Any,  # noqa: ANN401 - its fields differ by architecture
        state_dict: StateDict,
        **options: Any,  # noqa: ANN401 - passed on to transformers
    ) -> tuple[PooledClassifier, dict[str, list[Any]]]:
        """Build the model with the weights of a folder, and return it with transformers' loading info."""
        own_names = {f"classifier.{suffix}" for suffix in ("weight", "bias")}
        encoder_state = {
            name: tensor
            for name, tensor in state_dict.items()
            if name not in own_names and not name.startswith("pooling.")
        }
        encoder, info = self.encoder_class.from_pretrained(
            name, config=config, state_dict=encoder_state, **self._options(), **options
        )
        model = PooledClassifier(encoder, self.pooling)
        report: dict[str, list[Any]] = {
            "missing_keys": [f"encoder.{key}" for key in info["missing_keys"]],
            "unexpected_keys": list(info["unexpected_keys"]),
            "mismatched_keys": [(f"encoder.{key}", *shapes) for key, *shapes in info["mismatched_keys"]],
        }
        for key, tensor in model.state_dict().items():
            given = state_dict.get(key)
            if key.startswith("encoder."):
                continue
            if given is None:
                report["missing_keys"].append(key)
            elif given.shape != tensor.shape:
                report["mismatched_keys"].append((key, given.shape, tensor.shape))
            else:
                tensor.copy_(given)
        return model, report

    def _options(self) -> dict[str, bool]:
        """Leave out a pooler of the encoder, which the pooling replaces."""
        accepts = "add_pooling_layer" in inspect.signature(self.encoder_class.__init__).parameters
        return {"add_pooling_layer": False} if accepts else {}
