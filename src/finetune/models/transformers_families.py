"""Which transformers networks are known, and how each is built: one row per `model_type`."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.models.anatomy import Anatomy, Children
from finetune.spec.job_spec import Task


@dataclass(frozen=True, slots=True)
class TransformersFamily:
    """A family of transformers classifiers.

    Attributes:
        task: what it classifies.
        anatomy: where its stem, body and head are.
        dropout: the field of its configuration that holds the head's dropout; None where it has none.
        token_types: whether its inputs distinguish the two texts of a pair.
        positions: whether a sequence longer than `max_position_embeddings` has no place in it.
    """

    task: Task
    anatomy: Anatomy
    dropout: str | None = None
    token_types: bool = False
    positions: bool = True


def _encoder(base: str, head: str, classifier: str, extra: str = "") -> Anatomy:
    return Anatomy(
        stem=f"{base}.embeddings {extra}",
        body=(Children(f"{base}.encoder.layer"),),
        head=head,
        classifier=classifier,
        stem_name="embeddings",
    )


# What all layers of DeBERTa share enters them beside the sequence, like an embedding.
_SHARED = "deberta.encoder.rel_embeddings? deberta.encoder.LayerNorm? deberta.encoder.conv?"

TEXT: dict[str, TransformersFamily] = {
    "bert": TransformersFamily(
        "text-classification",
        _encoder("bert", "bert.pooler dropout classifier", "classifier"),
        dropout="classifier_dropout",
        token_types=True,
    ),
    "distilbert": TransformersFamily(
        "text-classification",
        Anatomy(
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
    ),
    "deberta": TransformersFamily(
        "text-classification",
        _encoder("deberta", "pooler dropout classifier", "classifier", _SHARED),
        dropout="cls_dropout",
        token_types=True,
    ),
    "deberta-v2": TransformersFamily(
        "text-classification",
        _encoder("deberta", "pooler dropout classifier", "classifier", _SHARED),
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
        Anatomy(
            stem="transformer.wte transformer.wpe transformer.drop",
            body=(Children("transformer.h"),),
            tail="transformer.ln_f",
            head="score",
            classifier="score",
            stem_name="embeddings",
        ),
    ),
}

IMAGES: dict[str, TransformersFamily] = {
    "vit": TransformersFamily(
        "image-classification",
        Anatomy(
            stem="vit.embeddings",
            body=(Children("vit.layers"),),
            tail="vit.layernorm",
            head="classifier",
            classifier="classifier",
            stem_name="embeddings",
        ),
    ),
    "swin": TransformersFamily(
        "image-classification",
        Anatomy(
            stem="swin.embeddings",
            body=(Children("swin.encoder.layers"),),
            tail="swin.layernorm swin.pooler",
            head="classifier",
            classifier="classifier",
            stem_name="embeddings",
        ),
    ),
    "resnet": TransformersFamily(
        "image-classification",
        Anatomy(
            stem="resnet.embedder",
            body=(Children("resnet.encoder.stages"),),
            tail="resnet.pooler",
            head="classifier",
            classifier="classifier.1",
        ),
    ),
}

FAMILIES: dict[str, TransformersFamily] = {**TEXT, **IMAGES}
