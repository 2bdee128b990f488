"""Every sequence classification family is a complete Backbone, and transformers loads its saved models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.models.backbone import Backbone, TextInput
from finetune.models.load import load_backbone
from tests.support.model_requests import (
    LABELS,
    assert_is_partition,
    groups_in_order_of_calls,
    inputs_of,
    logits_of,
    request_model,
)
from tests.support.tiny_transformers import TEXT_TYPES, TYPED, write_folder

# DeBERTa's modules still use torch.jit.script at import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture(scope="module", params=TEXT_TYPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder") / request.param, request.param, labels=("no", "yes"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(request_model(None, folder.parent, task="text-classification", channel=folder))


def test_forward_returns_one_logit_per_class(backbone: Backbone) -> None:
    outputs = backbone.forward(inputs_of(backbone))
    assert outputs.logits.shape == (2, len(LABELS))
    assert outputs.auxiliary == ()


def test_layer_groups_partition_the_model_in_execution_order(backbone: Backbone) -> None:
    assert_is_partition(backbone)
    assert [group.name for group in backbone.layer_groups()] == ["embeddings", "layer1", "layer2", "head"]
    assert groups_in_order_of_calls(backbone) == ["embeddings", "layer1", "layer2", "head"]


def test_padding_does_not_change_logits(backbone: Backbone) -> None:
    inputs = inputs_of(backbone)
    length = int(inputs["attention_mask"][1].sum())
    alone = {name: tensor[1:, :length] for name, tensor in inputs.items()}
    with torch.inference_mode():
        logits = backbone.forward(alone).logits
    assert torch.allclose(logits, logits_of(backbone)[1:], atol=1e-5)


def test_inputs_match_the_family(backbone: Backbone, folder: Path) -> None:
    assert isinstance(backbone.expects, TextInput)
    assert ("token_type_ids" in inputs_of(backbone)) == (folder.name in TYPED)


def test_saved_model_loads_in_transformers(backbone: Backbone, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, pipeline

    backbone.save(tmp_path)
    opened: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(opened).__name__ == backbone.describe().architecture
    assert (opened.config.id2label, opened.config.problem_type) == (
        dict(enumerate(LABELS)),
        "single_label_classification",
    )
    with torch.inference_mode():
        assert torch.equal(opened.eval()(**inputs_of(backbone)).logits, logits_of(backbone))
    predictions: Any = pipeline("text-classification", model=str(tmp_path), device="cpu")("the cat sat", top_k=None)
    assert {prediction["label"] for prediction in predictions} == set(LABELS)


def test_saved_model_reloads_with_its_head(backbone: Backbone, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    again = load_backbone(request_model(None, tmp_path, task="text-classification", channel=tmp_path))
    assert again.weights.kept_head
    assert torch.equal(logits_of(again), logits_of(backbone))


def test_dropout_applies_only_to_the_head(folder: Path) -> None:
    backbone = load_backbone(
        request_model(None, folder.parent, task="text-classification", channel=folder, dropout=0.75)
    )
    dropping = [name for name, module in backbone.module.named_modules() if getattr(module, "p", 0.0) == 0.75]
    assert len(dropping) == 1
    inside = {id(module) for root in backbone.layer_groups()[-1].modules for module in root.modules()}
    assert id(backbone.module.get_submodule(dropping[0])) in inside
    backbone.module.eval()
    backbone.module.get_submodule(dropping[0]).train()
    with torch.inference_mode():
        assert not torch.equal(backbone.forward(inputs_of(backbone)).logits, logits_of(backbone))


def test_random_weights_depend_only_on_the_seed(folder: Path) -> None:
    def draw(seed: int) -> dict[str, torch.Tensor]:
        request = request_model(
            None, folder.parent, task="text-classification", channel=folder, pretrained=False, seed=seed
        )
        return load_backbone(request).module.state_dict()

    first, same, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
