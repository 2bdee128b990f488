"""A transformers sequence classifier as a Backbone, with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from finetune.errors import UserError
from finetune.models.anatomy import layer_groups
from finetune.models.backbone import Cut, Description, LayerGroup, LoadedWeights, Outputs, TextInput
from finetune.models.cut import cut_texts
from finetune.models.request import ModelRequest
from finetune.models.state_files import separate_tensors
from finetune.models.transformers_families import TransformersFamily
from finetune.models.transformers_folder import OpenedFolder, first_line, quiet
from finetune.models.transformers_load import load_network

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Attention costs the square of the length, and few texts to classify say more later on.
_DEFAULT_MAX_LENGTH = 512
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True, slots=True)
class TextBackbone:
    """A transformers sequence classifier; see `Backbone` for the meaning of what it offers."""

    name: str
    module: PreTrainedModel
    expects: TextInput
    weights: LoadedWeights
    family: TransformersFamily
    _groups: tuple[LayerGroup, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_groups", layer_groups(self.module, self.family.anatomy))

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Give the ordered partition from embeddings to head."""
        return self._groups

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Classify `input_ids` and `attention_mask`, int64 `[batch, length]`, with `token_type_ids` where known."""
        return Outputs(self.module(**{name: inputs[name] for name in self._known() if name in inputs}).logits)

    def _known(self) -> tuple[str, ...]:
        return ("input_ids", "attention_mask", *(("token_type_ids",) if self.family.token_types else ()))

    def cut(self, border: int) -> Cut:
        """Cut the network in front of `layer_groups()[border]`."""
        return cut_texts(self, border, self._known(), first_token=self.family.first_token)

    def describe(self) -> Description:
        """Say which class of transformers opens the folder."""
        return Description("transformers", type(self.module).__name__)

    def save(self, folder: Path) -> None:
        """Write configuration, weights and tokenizer, as `from_pretrained` and `pipeline` read them."""
        with quiet():
            self.module.save_pretrained(folder, state_dict=separate_tensors(self.module))
            self.expects.tokenizer.save_pretrained(folder)


def build_text(request: ModelRequest, opened: OpenedFolder) -> TextBackbone:
    """Build a sequence classifier.

    Raises:
        UserError: tokenizer, weights, head or length cannot be as requested.
    """
    tokenizer = _tokenizer(opened)
    opened.config.pad_token_id = tokenizer.pad_token_id
    opened.config.use_cache = False
    expects = TextInput(tokenizer, _max_length(request.max_length, tokenizer, opened))
    loaded = load_network(request, opened)
    name = request.spec.name or opened.source.name or str(opened.config.model_type)
    return TextBackbone(name, loaded.network, expects, loaded.weights, opened.family)


def _tokenizer(opened: OpenedFolder) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    place = opened.source.place
    if not any(found for pattern in _TOKENIZER_FILES for found in opened.folder.glob(pattern)):
        raise UserError(f"The {place} has no tokenizer ({', '.join(_TOKENIZER_FILES)}): save it beside the weights.")
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if opened.family.token_types else [])]
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                opened.folder, local_files_only=True, trust_remote_code=False, model_input_names=inputs
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise UserError(f"The tokenizer in the {place} cannot be used: {first_line(error)}.") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"The tokenizer in the {place} has neither a padding nor an end token: set one and save it."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def _max_length(asked: int | None, tokenizer: PreTrainedTokenizerBase, opened: OpenedFolder) -> int:
    limit = _longest(opened)
    earlier = opened.source.artifact.get("preprocessing")
    known = earlier.get("max_length") if isinstance(earlier, Mapping) else None
    if asked is None and isinstance(known, int) and 0 < known <= (limit or known):
        return known
    if asked is None:
        return min(_DEFAULT_MAX_LENGTH, tokenizer.model_max_length, limit or _DEFAULT_MAX_LENGTH)
    if limit is not None and asked > limit:
        raise UserError(f"max_length={asked} is more than this network has positions for: choose {limit} or less.")
    return asked


def _longest(opened: OpenedFolder) -> int | None:
    """Tokens that the network has positions for; RoBERTa's begin after its padding token's."""
    if not opened.family.positions:
        return None
    positions = int(opened.config.max_position_embeddings)
    return positions - int(opened.config.pad_token_id) - 1 if opened.config.model_type == "roberta" else positions
