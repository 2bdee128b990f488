"""Every torchvision family is a complete Backbone: forward pass, ordered partition, and rebuildable artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import get_model, get_model_weights

from finetune.models.backbone import Backbone, ImageInput
from finetune.models.load import load_backbone
from finetune.models.preprocessing import torchvision_input
from finetune.models.torchvision.families import FAMILIES, family_of, torchvision_names
from tests.support.model_requests import (
    LABELS,
    assert_is_partition,
    groups_in_order_of_calls,
    inputs_of,
    logits_of,
    request_model,
)

# The smallest member of each family (two if the family has two builders), the image size, and its groups.
SMALLEST = {
    "resnet18": (32, "stem layer1 layer2 layer3 layer4 head"),
    "vgg11": (32, "layer1 layer2 layer3 layer4 layer5 layer6 layer7 head"),
    "inception_v3": (299, "stem layer1 layer2 layer3 head"),
    "googlenet": (32, "stem layer1 layer2 layer3 head"),
    "mobilenet_v2": (32, "layer1 layer2 layer3 layer4 layer5 head"),
    "mobilenet_v3_small": (32, "layer1 layer2 layer3 layer4 layer5 layer6 head"),
    "efficientnet_b0": (32, " ".join(f"layer{number}" for number in range(1, 10)) + " head"),
    "efficientnet_v2_s": (64, " ".join(f"layer{number}" for number in range(1, 9)) + " head"),
    "densenet121": (32, "stem layer1 layer2 layer3 layer4 head"),
    "convnext_tiny": (32, "stem layer1 layer2 layer3 layer4 head"),
    "vit_b_32": (64, "stem " + " ".join(f"layer{number}" for number in range(1, 13)) + " head"),
    "swin_t": (32, "stem layer1 layer2 layer3 layer4 head"),
    "swin_v2_t": (32, "stem layer1 layer2 layer3 layer4 head"),
    "regnet_y_400mf": (32, "stem layer1 layer2 layer3 layer4 head"),
}


@pytest.fixture(scope="module", params=SMALLEST)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    size, _ = SMALLEST[request.param]
    scratch = tmp_path_factory.mktemp("scratch")
    return load_backbone(request_model(request.param, scratch, pretrained=False, image_size=size))


def test_forward_returns_one_logit_per_class(backbone: Backbone) -> None:
    outputs = backbone.forward(inputs_of(backbone))
    assert outputs.logits.shape == (2, len(LABELS))
    assert outputs.auxiliary == ()


def test_layer_groups_partition_the_model_and_have_the_documented_names(backbone: Backbone) -> None:
    assert_is_partition(backbone)
    assert " ".join(group.name for group in backbone.layer_groups()) == SMALLEST[backbone.name][1]


def test_layer_groups_are_in_execution_order(backbone: Backbone) -> None:
    assert groups_in_order_of_calls(backbone) == [group.name for group in backbone.layer_groups()]


def test_saved_weights_load_in_plain_torchvision(backbone: Backbone, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    description = backbone.describe()
    rebuilt: Any = get_model(description.architecture, weights=None, **description.arguments)
    rebuilt.load_state_dict(load_file(tmp_path / "model.safetensors"))
    expected, expects = logits_of(backbone), backbone.expects
    assert isinstance(expects, ImageInput)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (expects.mean, expects.std))
    images = (inputs_of(backbone)["pixels"].float() / 255 - mean) / std
    with torch.inference_mode():
        logits = rebuilt.eval()(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(logits, expected)


def test_every_family_is_covered() -> None:
    assert {family_of(name) for name in SMALLEST} == set(FAMILIES)


@pytest.mark.parametrize("name", torchvision_names())
def test_preprocessing_comes_from_the_default_weights(name: str) -> None:
    preset = get_model_weights(name).DEFAULT.transforms()
    expects = torchvision_input(name)
    assert (expects.size, expects.resize) == (preset.crop_size[0], preset.resize_size[0])
    assert (expects.mean, expects.std) == (tuple(preset.mean), tuple(preset.std))
    assert expects.interpolation == preset.interpolation.value
