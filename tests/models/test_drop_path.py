"""Stochastic depth of all three libraries has the requested rates, in training only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.ops import StochasticDepth
from transformers import AutoModelForImageClassification, ConvNextConfig, SwinConfig

from finetune.models.drop_path import set_drop_path

from_config: Callable[..., nn.Module] = AutoModelForImageClassification.from_config
CONVNEXT = ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 2, 1])
SWIN = SwinConfig(
    image_size=32, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=2, drop_path_rate=0.0
)
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision": (lambda: ConvNeXt([CNBlockConfig(4, 8, 2), CNBlockConfig(8, None, 3)], num_classes=3), 5),
    "timm": (lambda: timm.create_model("test_vit", num_classes=3), 6),
    "transformers, ConvNeXt": (lambda: from_config(CONVNEXT), 5),
    "transformers, Swin": (lambda: from_config(SWIN), 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_rates_rise_from_the_first_block_to_the_last(name: str) -> None:
    build, blocks = MODELS[name]
    model = build()
    names = list(model.state_dict())
    assert set_drop_path(model, 0.4)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert sorted(set(rates)) == pytest.approx([0.4 * block / (blocks - 1) for block in range(blocks)])
    assert rates == sorted(rates)
    assert list(model.state_dict()) == names


def test_branches_are_dropped_in_training_only() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    expected = model.eval()(images)
    set_drop_path(model, 0.9)
    assert torch.equal(model(images), expected)
    outputs = [model.train()(images) for _ in range(3)]
    assert not torch.equal(outputs[0], outputs[1]) or not torch.equal(outputs[0], outputs[2])


def test_a_model_without_stochastic_depth_is_reported() -> None:
    assert not set_drop_path(nn.Sequential(nn.Linear(2, 2), nn.Identity()), 0.1)
