"""Selection of a model's head; a newly initialized one is a function of the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from finetune.errors import UserError
from finetune.models.heads import DropoutLinear, SourceHead, rows_to_keep, seeded, summarize_labels
from finetune.models.load import load_backbone
from tests.support.model_requests import LABELS, request_model

NAME = "mobilenet_v3_small"
SAME = SourceHead(3, LABELS)
SHUFFLED = SourceHead(3, ("dog", "bird", "cat"))
OTHERS = SourceHead(3, ("bird", "cat", "fox"))
UNNAMED = SourceHead(3)
FEWER = SourceHead(2)


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        (SAME, (0, 1, 2)),
        (SHUFFLED, (1, 2, 0)),
        (UNNAMED, (0, 1, 2)),
        (OTHERS, None),
        (FEWER, None),
        (None, None),
        (SourceHead(3, LABELS, problem_type="multi_label_classification"), None),
    ],
)
def test_same_classes_reuse_the_head(head: SourceHead | None, rows: tuple[int, ...] | None, tmp_path: Path) -> None:
    assert rows_to_keep(head, request_model(NAME, tmp_path)) == rows


def test_reinitialize_creates_a_new_head(tmp_path: Path) -> None:
    assert rows_to_keep(SAME, request_model(NAME, tmp_path, reinitialize="true")) is None


def test_head_is_reused_on_request(tmp_path: Path) -> None:
    assert rows_to_keep(SHUFFLED, request_model(NAME, tmp_path, reinitialize="false")) == (1, 2, 0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (OTHERS, r"have 3 classes \('bird', 'cat', 'fox'\) and the data 3 classes \('bird', 'cat', 'dog'\)"),
        (FEWER, "have 2 classes and the data"),
        (None, "no top layer to keep"),
        (SourceHead(3, LABELS, problem_type="multi_label_classification"), "trained for several classes per record"),
    ],
)
def test_unusable_head_is_refused(head: SourceHead | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        rows_to_keep(head, request_model(NAME, tmp_path, reinitialize="false"))


@pytest.mark.parametrize("head", [OTHERS, FEWER, None])
def test_evaluation_needs_the_head_of_the_weights(head: SourceHead | None, tmp_path: Path) -> None:
    assert rows_to_keep(SHUFFLED, request_model(NAME, tmp_path, trained=False)) == (1, 2, 0)
    with pytest.raises(UserError, match="strategy=evaluate needs the top layer of the weights"):
        rows_to_keep(head, request_model(NAME, tmp_path, trained=False))


def test_long_lists_of_classes_are_shortened() -> None:
    assert summarize_labels(tuple("abcdefgh")) == "8 classes ('a', 'b', 'c', 'd', 'e' and 3 more)"


def head_of(state: dict[str, Tensor]) -> Tensor:
    return state["classifier.3.weight"]


def test_new_head_does_not_depend_on_loaded_weights(tmp_path: Path) -> None:
    torch.save(get_model(NAME, weights=None, num_classes=7).state_dict(), tmp_path / f"{NAME}.pth")
    loaded = load_backbone(request_model(NAME, tmp_path, channel=tmp_path)).module.state_dict()
    torch.rand(1)
    random = load_backbone(request_model(NAME, tmp_path, pretrained=False)).module.state_dict()
    other = load_backbone(request_model(NAME, tmp_path, pretrained=False, seed=2)).module.state_dict()
    assert torch.equal(head_of(loaded), head_of(random))
    assert not torch.equal(head_of(random), head_of(other))
    assert not torch.equal(loaded["classifier.0.weight"], random["classifier.0.weight"])


def test_building_restores_the_global_random_state(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load_backbone(request_model(NAME, tmp_path, pretrained=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_depend_only_on_the_seed(tmp_path: Path) -> None:
    first, same, other = (
        load_backbone(request_model(NAME, tmp_path, pretrained=False, seed=seed)).module.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])


def test_purposes_have_different_random_streams() -> None:
    def draw(seed: int, purpose: str) -> float:
        with seeded(seed, purpose):
            return float(torch.rand(1))

    assert draw(1, "a") == draw(1, "a")
    assert len({draw(1, "a"), draw(2, "a"), draw(1, "b")}) == 3


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_dropout_is_added_before_the_classifier(name: str, tmp_path: Path) -> None:
    backbone = load_backbone(request_model(name, tmp_path, pretrained=False, image_size=32, dropout=0.5))
    dropping = [module for module in backbone.module.modules() if isinstance(module, DropoutLinear)]
    assert [module.p for module in dropping] == [0.5]
    assert set(backbone.module.state_dict()) == set(get_model(name, weights=None).state_dict())


@pytest.mark.parametrize(("p", "expected"), [(None, 0.2), (0.0, 0.0), (0.6, 0.6)])
def test_existing_dropout_is_set(p: float | None, expected: float, tmp_path: Path) -> None:
    backbone = load_backbone(request_model(NAME, tmp_path, pretrained=False, dropout=p))
    dropouts = [module.p for module in backbone.module.modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [expected]
    assert not any(isinstance(module, DropoutLinear) for module in backbone.module.modules())


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_dropout_applies_only_in_training(mode: Literal["training", "evaluation"]) -> None:
    plain = nn.Linear(1000, 2)
    dropping = DropoutLinear(plain, 0.5).train(mode == "training")
    inputs = torch.ones(4, 1000)
    assert torch.equal(dropping(inputs), plain(inputs)) == (mode == "evaluation")
