"""Describes transformers classifiers by their structure, with a table of what the structure does not show."""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune.config.hyperparameters import TaskName
from finetune.models.layer_groups import Children, ModelLayout
from finetune.models.structure import ModelParts, find_classifier

# Fields of configurations for the dropout of the head.
_DROPOUT_FIELDS = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout")
# Read by DeBERTa, although its configuration does not declare it.
_DEBERTA_DROPOUT = "cls_dropout"

# The relative embeddings shared by all layers of DeBERTa are read as a weight, not called, and are a second input of
# each layer, so they belong to the stem. The optional convolution combines the input and the output of the first layer.
_DEBERTA = ModelLayout(
    stem="deberta.embeddings deberta.encoder.rel_embeddings? deberta.encoder.LayerNorm?",
    body=(Children("deberta.encoder.layer"),),
    with_first="deberta.encoder.conv?",
    head="pooler dropout classifier",
    classifier="classifier",
    stem_name="embeddings",
)
# Layouts that are not found from the structure, by `model_type`.
LAYOUTS: dict[str, ModelLayout] = {"deberta": _DEBERTA, "deberta-v2": _DEBERTA}
# The head of most decoders is called `score`; these have the same head under another name.
LAST_TOKEN_TYPES = frozenset({"ctrl", "modernbert-decoder"})
# Architectures whose splits the tests compare with the whole model; others are checked when they are loaded.
TESTED_TEXT_TYPES = frozenset(
    {
        "albert",
        "bert",
        "bloom",
        "camembert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "eurobert",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "llama",
        "mistral",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "olmo2",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "rembert",
        "roberta",
        "roformer",
        "smollm3",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)
TESTED_IMAGE_TYPES = frozenset(
    {
        "beit",
        "convnext",
        "convnextv2",
        "data2vec-vision",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "focalnet",
        "ijepa",
        "mobilenet_v2",
        "poolformer",
        "regnet",
        "resnet",
        "siglip",
        "swin",
        "swinv2",
        "vit",
        "vit_msn",
    }
)
# Heads with several classifiers, or inputs other than one text or image.
UNSUPPORTED_TYPES = {
    "layoutlm": "needs the positions of words on a page",
    "layoutlmv2": "needs images of pages",
    "layoutlmv3": "needs images of pages",
    "lilt": "needs the positions of words on a page",
    "markuplm": "needs the structure of web pages",
    "swiftformer": "has two classifiers",
    "tapas": "needs tables",
}


class UnsupportedModelError(Exception):
    """The structure of a model is not supported; the message is the reason, as a clause."""


@dataclass(frozen=True, slots=True)
class TransformersFamily:
    """What is known of a transformers classifier before it runs.

    Attributes:
        task: classification task.
        base: name of the encoder in the model; empty if its parts are those of the model.
        classifier: path of the linear layer that computes the logits.
        layout: paths of its stem, body and head, if its structure does not show them.
        dropout: configuration field of the head's dropout; None if there is none.
        token_types: whether its models accept token types, which mostly distinguish the two texts of a pair.
        counts_positions: whether positions are counted from the id of the padding token, as in RoBERTa.
        last_token: whether the head reads the last token that is not padding.
        pooled: whether the head classifies pooled token states, see `PooledClassifier`.
        encoder_parts: names of the direct children of the encoder that have parameters.
    """

    task: TaskName
    base: str
    classifier: str
    layout: ModelLayout | None = None
    dropout: str | None = None
    token_types: bool = False
    counts_positions: bool = False
    last_token: bool = False
    pooled: bool = False
    encoder_parts: tuple[str, ...] = ()

    @property
    def reads_padding(self) -> bool:
        """Whether a token equal to `pad_token_id` changes the outputs despite the attention mask."""
        return self.counts_positions or self.last_token

    @property
    def parts(self) -> ModelParts:
        """Encoder and classifier, for finding the layer groups."""
        if self.pooled:
            return ModelParts("", self.classifier, ("dropout",), stem_name="embeddings")
        is_text = self.task == "text-classification"
        return ModelParts(
            self.base,
            self.classifier,
            stem_name="embeddings" if is_text else "stem",
            # Its pooler is often new, and needs training then.
            pooled_in_head=is_text,
        )


def describe_family(config: Any, model_class: Any, task: TaskName) -> TransformersFamily:  # noqa: ANN401 - untyped in transformers
    """Describe the models of a configuration, from a model without memory for its weights.

    Raises:
        UnsupportedModelError: the model is not an encoder with a linear classifier.
        Exception: any error of transformers for an invalid configuration.
    """
    config = deepcopy(config)
    # An invalid one is reported with the tokenizer.
    config.pad_token_id = 0
    with torch.device("meta"):
        model = model_class(config)
    model_type, base = str(config.model_type), str(model.base_model_prefix)
    if not hasattr(model, base):
        base = ""
    encoder = model.get_submodule(base)
    if model_type in UNSUPPORTED_TYPES:
        raise UnsupportedModelError(f"it {UNSUPPORTED_TYPES[model_type]}")
    classifier = find_classifier(model, base, int(config.num_labels))
    if classifier is None:
        raise UnsupportedModelError(f"the head of {type(model).__name__} has no linear layer for the classes")
    return TransformersFamily(
        task,
        base,
        classifier,
        layout=LAYOUTS.get(model_type),
        dropout=_DEBERTA_DROPOUT
        if model_type in LAYOUTS
        else next((name for name in _DROPOUT_FIELDS if hasattr(config, name)), None),
        token_types="token_type_ids" in inspect.signature(model.forward).parameters,
        counts_positions=_counts_positions(encoder),
        last_token=classifier == "score" or model_type in LAST_TOKEN_TYPES,
        encoder_parts=tuple(dict.fromkeys(name.partition(".")[0] for name, _ in encoder.named_parameters())),
    )


def _counts_positions(encoder: nn.Module) -> bool:
    """Return whether the position embeddings have a row for padding, as in RoBERTa and its relatives."""
    return any(
        isinstance(module, nn.Embedding) and module.padding_idx is not None and "position" in path
        for path, module in encoder.named_modules()
    )
