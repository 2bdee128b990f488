"""`Backbone` for transformers sequence classifiers, with their tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finetune.errors import UserError
from finetune.models.backbone import ModelDescription, Outputs, SplitModel, TextInput
from finetune.models.layered import LayeredBackbone
from finetune.models.request import ModelRequest
from finetune.models.splitting.exactness import with_exact_groups
from finetune.models.splitting.split_model import example_tokens, split_text_model
from finetune.models.transformers.families import TESTED_TEXT_TYPES
from finetune.models.transformers.folder import ModelFolder, quiet, unsupported_structure_error
from finetune.models.transformers.load import load_model
from finetune.models.transformers.pooled import PooledClassifier
from finetune.models.transformers.tokenizer import load_tokenizer, token_type_count
from finetune.models.weights.state_files import separate_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The cost of attention is quadratic in the length, and longer texts rarely contain more information about the class.
_DEFAULT_MAX_LENGTH = 512
# Tokenizers without a limit have a very large number instead.
_NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class TextBackbone(LayeredBackbone):
    """A transformers sequence classifier; implements `Backbone`."""

    module: PreTrainedModel
    expects: TextInput

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Compute logits for `input_ids`, `attention_mask` and optional `token_type_ids`, int64 `[batch, length]`."""
        return Outputs(self.module(**{name: inputs[name] for name in self._input_names() if name in inputs}).logits)

    def _input_names(self) -> tuple[str, ...]:
        return tuple(self.expects.tokenizer.model_input_names)

    def split(self, split_index: int) -> SplitModel:
        """Split the model before `layer_groups()[split_index]`."""
        return split_text_model(
            self,
            split_index,
            self._input_names(),
            tokens=_example_tokens(self.module.config),
            pad_token_id=self.expects.tokenizer.pad_token_id,
        )

    def describe(self) -> ModelDescription:
        """Return the transformers class that loads the saved folder."""
        module: nn.Module = self.module
        if isinstance(module, PooledClassifier):
            return ModelDescription("transformers", type(module.encoder).__name__, module.layout.arguments)
        return ModelDescription("transformers", type(self.module).__name__)

    def save(self, folder: Path) -> None:
        """Write configuration, weights and tokenizer for `from_pretrained` and `pipeline`."""
        with quiet():
            self.module.save_pretrained(folder, state_dict=separate_tensors(self.module))
            self.expects.tokenizer.save_pretrained(folder)


def build_text(request: ModelRequest, model_folder: ModelFolder) -> TextBackbone:
    """Build a sequence classifier.

    Raises:
        UserError: tokenizer, weights, head or length do not match the request.
    """
    padding = model_folder.config.pad_token_id
    opened = load_tokenizer(model_folder)
    tokenizer = opened.tokenizer
    model_folder.config.use_cache = False
    borrowed_padding = model_folder.family.last_token and model_folder.config.pad_token_id != padding
    expects = TextInput(
        tokenizer,
        _max_length(request, tokenizer, model_folder),
        vocabulary=int(model_folder.config.vocab_size),
        token_types=token_type_count(model_folder),
        borrowed_padding=borrowed_padding,
        added_padding=opened.added_padding,
    )
    tokens = _example_tokens(model_folder.config)
    mask = torch.ones_like(tokens)
    loaded = load_model(request, model_folder, lambda model: model(input_ids=tokens, attention_mask=mask))
    name = request.spec.name or model_folder.source.name or str(model_folder.config.model_type)
    backbone = TextBackbone(name, loaded.model, expects, loaded.weights, loaded.layout)
    return _with_exact_groups(backbone, model_folder)


def _with_exact_groups(backbone: TextBackbone, model_folder: ModelFolder) -> TextBackbone:
    """Return the model with its encoder as a single group if it cannot be split between its blocks.

    Raises:
        UserError: the model cannot be split before its head either.
    """
    family, config = model_folder.family, model_folder.config
    if config.model_type in TESTED_TEXT_TYPES and not family.pooled:
        return backbone
    backbone.module.train(mode=False)
    inputs = _padded_example(config, backbone.expects.tokenizer.pad_token_id)
    if not _masks_padding(backbone, inputs):
        raise UserError(
            f"The model in the {model_folder.source.location} (model_type={config.model_type!r}) is not supported: its"
            " outputs depend on the padding of a text, and so on the other texts of a batch. Choose another"
            " architecture, such as bert, roberta, modernbert or qwen3."
        )
    exact = with_exact_groups(backbone, family.parts, inputs)
    if exact is None:
        raise unsupported_structure_error(model_folder)
    return exact


def _masks_padding(backbone: TextBackbone, inputs: Mapping[str, Tensor]) -> bool:
    """Return whether the last text of a padded batch has the same logits alone and without padding."""
    length = int(inputs["attention_mask"][-1].sum())
    with torch.no_grad():
        logits = backbone.forward(inputs).logits[-1:]
        alone = backbone.forward({name: tensor[-1:, :length] for name, tensor in inputs.items()}).logits
    return torch.allclose(alone, logits, rtol=1e-3, atol=1e-4)


def _example_tokens(config: Any) -> Tensor:  # noqa: ANN401 - its fields differ by architecture
    final = config.eos_token_id if isinstance(config.eos_token_id, int) else None
    return example_tokens(int(config.vocab_size), final)


def _padded_example(config: Any, padding: int) -> dict[str, Tensor]:  # noqa: ANN401 - its fields differ by architecture
    """Return three texts of six tokens, the first of them without padding and each with the same last token."""
    tokens = _example_tokens(config)
    texts = [tokens[0].tolist(), tokens[1].tolist(), tokens[1, 2:].tolist()]
    texts[0].insert(0, texts[0][1])
    input_ids = torch.full((len(texts), len(texts[0])), padding)
    mask = torch.zeros_like(input_ids)
    for row, text in enumerate(texts):
        input_ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def _max_length(request: ModelRequest, tokenizer: PreTrainedTokenizerBase, model_folder: ModelFolder) -> int:
    max_length, limit = request.max_length, _position_limit(model_folder)
    preprocessing = model_folder.source.artifact.get("preprocessing")
    artifact_length = preprocessing.get("max_length") if isinstance(preprocessing, Mapping) else None
    if max_length is None and isinstance(artifact_length, int) and 0 < artifact_length <= (limit or artifact_length):
        return artifact_length
    tokenizer_length = int(tokenizer.model_max_length)
    if model_folder.pooling is not None and model_folder.pooling.max_length is not None:
        tokenizer_length = min(tokenizer_length, model_folder.pooling.max_length)
    if max_length is None:
        # Evaluation without training uses the same maximum length as transformers, regardless of the cost.
        default = (
            _DEFAULT_MAX_LENGTH
            if request.trained or min(tokenizer_length, limit or tokenizer_length) >= _NO_LIMIT
            else tokenizer_length
        )
        max_length = min(default, tokenizer_length, limit or default)
    elif limit is not None and max_length > limit:
        raise UserError(f"max_length={max_length} exceeds the {limit} positions of the model: choose {limit} or less.")
    if max_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise UserError(
            f"max_length={max_length} leaves no room for text after {special} special tokens: increase it, or"
            f" correct model_max_length={tokenizer_length} in the tokenizer's configuration."
        )
    return max_length


def _position_limit(model_folder: ModelFolder) -> int | None:
    """Return the number of tokens that the model has positions for; RoBERTa's start after the padding token's."""
    config = model_folder.config
    positions = getattr(config, "max_position_embeddings", None)
    if not getattr(config, "position_biased_input", True) or not isinstance(positions, int) or positions <= 0:
        return None
    return positions - int(config.pad_token_id) - 1 if model_folder.family.counts_positions else positions
