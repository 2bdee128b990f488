"""Text model folders, loaded by this project and by transformers with the folder's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.config.parse import parse_hyperparameters
from finetune.data.transforms.text import TextTransform
from finetune.errors import UserError
from finetune.job.data.loaders import build_transform
from finetune.models.backbone import Backbone, TextInput
from finetune.models.load import load_backbone
from tests.support.model_requests import request_model

TEXTS = (
    ("the cat sat on the mat",),
    ("a dog",),
    ("The CAT, ran; away!",),
    ("the [PAD] cat [SEP] [UNK]",),
    ("qzx \u4e2d\U0001f9ff caf\u00e9",),
    ("the " * 60,),
    ("the cat", "a dog ran away"),
    ("the " * 40, "a dog " * 30),
)


def load(folder: Path, **options: Any) -> Backbone:  # noqa: ANN401 - arguments of `ask`
    options = {"labels": ("no", "yes"), "channel": folder, **options}
    return load_backbone(request_model(None, folder.parent, task="text-classification", **options))


def load_error(folder: Path, **options: Any) -> str:  # noqa: ANN401 - arguments of `ask`
    with pytest.raises(UserError) as caught:
        load(folder, **options)
    return str(caught.value)


def input_of(backbone: Backbone) -> TextInput:
    assert isinstance(backbone.expects, TextInput)
    return backbone.expects


def transform_of(backbone: Backbone) -> TextTransform:
    transform = build_transform(backbone.expects, parse_hyperparameters({}))
    assert isinstance(transform, TextTransform)
    return transform


def probabilities(backbone: Backbone, texts: Sequence[tuple[str, ...]]) -> Tensor:
    """Probabilities for all texts in one padded batch."""
    transform = transform_of(backbone)
    with torch.inference_mode():
        logits: Tensor = backbone.forward(transform.collate([transform(text, None) for text in texts])).logits
    return logits.softmax(1)


def reference(folder: Path, texts: Sequence[tuple[str, ...]], **options: Any) -> Tensor:  # noqa: ANN401 - options of the tokenizer
    """Probabilities for each text alone, by transformers with all outputs of the folder's own tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        batch = tokenizer(*[[part] for part in text], truncation=True, return_tensors="pt", **options)
        with torch.inference_mode():
            rows.append(model(**batch).logits.softmax(1)[0])
    return torch.stack(rows)


def change(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {name: value for name, value in {**content, **changes}.items() if value is not KeyError}
    path.write_text(json.dumps(content))


def add_token(folder: Path, token: str, **special: object) -> None:
    """Add a token without resizing the embeddings, a common mistake."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if special:
        tokenizer.add_special_tokens({**special, next(iter(special)): token})
    else:
        tokenizer.add_tokens([token])
    tokenizer.save_pretrained(folder)
