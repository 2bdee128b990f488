"""Table of the supported transformers families and their layer layouts, by `model_type`."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.hyperparameters import TaskName
from finetune.models.layer_groups import Children, ModelLayout


@dataclass(frozen=True, slots=True)
class TransformersFamily:
    """A family of transformers classifiers.

    Attributes:
        task: classification task.
        layout: paths of its stem, body and head.
        dropout: configuration field of the head's dropout; None if there is none.
        token_types: whether its models accept token types, which mostly distinguish the two texts of a pair.
        positions: whether `max_position_embeddings` limits the sequence length.
        first_token: whether the head reads only the first token of a text.
        reads_padding: whether a token equal to `pad_token_id` changes the outputs despite the attention mask, since
            positions are counted from it or the last other token is classified.
    """

    task: TaskName
    layout: ModelLayout
    dropout: str | None = None
    token_types: bool = False
    positions: bool = True
    first_token: bool = True
    reads_padding: bool = False


def _encoder(base: str, head: str, classifier: str, more_stem: str = "", with_first: str = "") -> ModelLayout:
    return ModelLayout(
        stem=f"{base}.embeddings {more_stem}",
        body=(Children(f"{base}.encoder.layer"),),
        with_first=with_first,
        head=head,
        classifier=classifier,
        stem_name="embeddings",
    )


# The relative embeddings shared by all layers of DeBERTa are a second input of each layer, so they belong to the stem.
# The optional convolution combines the input and the output of the first layer.
_DEBERTA = _encoder(
    "deberta",
    "pooler dropout classifier",
    "classifier",
    more_stem="deberta.encoder.rel_embeddings? deberta.encoder.LayerNorm?",
    with_first="deberta.encoder.conv?",
)

TEXT: dict[str, TransformersFamily] = {
    "bert": TransformersFamily(
        "text-classification",
        _encoder("bert", "bert.pooler dropout classifier", "classifier"),
        dropout="classifier_dropout",
        token_types=True,
    ),
    "distilbert": TransformersFamily(
        "text-classification",
        ModelLayout(
            stem="distilbert.embeddings",
            body=(Children("distilbert.transformer.layer"),),
            head="pre_classifier dropout classifier",
            classifier="classifier",
            stem_name="embeddings",
        ),
        dropout="seq_classif_dropout",
    ),
    "roberta": TransformersFamily(
        "text-classification",
        _encoder("roberta", "classifier", "classifier.out_proj"),
        dropout="classifier_dropout",
        token_types=True,
        reads_padding=True,
    ),
    "deberta": TransformersFamily(
        "text-classification",
        _DEBERTA,
        dropout="cls_dropout",
        token_types=True,
    ),
    "deberta-v2": TransformersFamily(
        "text-classification",
        _DEBERTA,
        dropout="cls_dropout",
        token_types=True,
        positions=False,
    ),
    "electra": TransformersFamily(
        "text-classification",
        _encoder("electra", "classifier", "classifier.out_proj", "electra.embeddings_project?"),
        dropout="classifier_dropout",
        token_types=True,
    ),
    "gpt2": TransformersFamily(
        "text-classification",
        ModelLayout(
            stem="transformer.wte transformer.wpe transformer.drop",
            body=(Children("transformer.h"),),
            with_last="transformer.ln_f",
            head="score",
            classifier="score",
            stem_name="embeddings",
        ),
        token_types=True,
        first_token=False,
        reads_padding=True,
    ),
}

IMAGES: dict[str, TransformersFamily] = {
    "vit": TransformersFamily(
        "image-classification",
        ModelLayout(
            stem="vit.embeddings",
            body=(Children("vit.layers"),),
            with_last="vit.layernorm",
            head="classifier",
            classifier="classifier",
            stem_name="embeddings",
        ),
    ),
    "swin": TransformersFamily(
        "image-classification",
        ModelLayout(
            stem="swin.embeddings",
            body=(Children("swin.encoder.layers"),),
            with_last="swin.layernorm swin.pooler",
            head="classifier",
            classifier="classifier",
            stem_name="embeddings",
        ),
    ),
    "resnet": TransformersFamily(
        "image-classification",
        ModelLayout(
            stem="resnet.embedder",
            body=(Children("resnet.encoder.stages"),),
            with_last="resnet.pooler",
            head="classifier",
            classifier="classifier.1",
        ),
    ),
}

FAMILIES: dict[str, TransformersFamily] = {**TEXT, **IMAGES}
