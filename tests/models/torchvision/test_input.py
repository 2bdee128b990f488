"""Torchvision models accept images of other sizes, and use their auxiliary classifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.transforms.functional import normalize

from finetune.errors import UserError
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.load import load_backbone
from finetune.models.preprocessing import Normalizer, input_from_artifact, torchvision_input, with_size
from tests.support.model_requests import LABELS, inputs_of, request_model

NORMAL = ImageInput(8, 10, "bilinear", (0.1, 0.5, 0.9), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_normalized_like_torchvision(layout: torch.memory_format) -> None:
    normaliser = Normalizer(NORMAL)
    # One normalizer for several widths: the next batch may have another size.
    for height, width in ((8, 8), (8, 5), (3, 7), (8, 8)):
        pixels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8).contiguous(memory_format=layout)
        before = pixels.clone()
        normalised = normaliser({"pixels": pixels})
        expected = normalize(pixels.float() / 255, list(NORMAL.mean), list(NORMAL.std))
        assert normalised.dtype == torch.float32
        assert torch.equal(normalised, expected)
        assert normalised.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(pixels, before)


def test_normalization_is_not_in_the_state_dict(tmp_path: Path) -> None:
    backbone = load_backbone(request_model("mobilenet_v3_small", tmp_path, pretrained=False))
    assert set(backbone.module.state_dict()) == set(get_model("mobilenet_v3_small", weights=None).state_dict())


@pytest.mark.parametrize(("size", "resize"), [(None, 232), (224, 232), (112, 116), (448, 464), (1, 1)])
def test_resize_margin_is_scaled(size: int | None, resize: int) -> None:
    expects = with_size(torchvision_input("resnet50"), size)
    assert (expects.size, expects.resize) == (size or 224, resize)


def test_artifact_keeps_its_image_input() -> None:
    written = {"size": 8, "resize": 10, "interpolation": "bilinear", "mean": [0.1, 0.5, 0.9], "std": [0.2, 0.3, 0.4]}
    assert input_from_artifact(written) == NORMAL
    for name in written:
        assert input_from_artifact({**written, name: "strange"}) is None
    assert input_from_artifact({**written, "std": [0.0, 0.3, 0.4]}) is None
    assert input_from_artifact(None) is None


@pytest.mark.parametrize(
    ("name", "size", "advice"),
    [
        ("vit_b_32", 100, "such as 96"),
        ("vit_b_32", 20, "such as 32"),
        ("inception_v3", 74, "choose 75 or more"),
        ("vgg11", 31, "choose 32 or more"),
        ("swin_t", 31, "choose 32 or more"),
    ],
)
def test_unsuitable_image_size_is_refused(name: str, size: int, advice: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"image_size={size} .*{name}.*{advice}"):
        load_backbone(request_model(name, tmp_path, pretrained=False, image_size=size))


def test_position_embeddings_are_interpolated_like_torchvision(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = get_model("vit_b_32", weights=None, image_size=64, num_classes=len(LABELS))
        torch.nn.init.normal_(trained.encoder.pos_embedding)
    save_file(trained.state_dict(), tmp_path / "vit_b_32.safetensors")
    backbone = load_backbone(request_model(None, tmp_path, channel=tmp_path, image_size=96))
    expected = interpolate_embeddings(96, 32, trained.state_dict())["encoder.pos_embedding"]
    assert torch.equal(backbone.module.state_dict()["encoder.pos_embedding"], expected)
    assert backbone.describe().arguments["image_size"] == 96
    assert backbone.forward(inputs_of(backbone)).logits.shape == (2, len(LABELS))


def training_outputs(backbone: Backbone) -> list[tuple[float, torch.Size]]:
    backbone.module.train()
    outputs = backbone.forward(inputs_of(backbone))
    assert outputs.logits.shape == (2, len(LABELS))
    return [(weight, logits.shape) for weight, logits in outputs.auxiliary]


@pytest.mark.parametrize(
    ("name", "size", "weights"),
    [("inception_v3", None, [0.4]), ("inception_v3", 128, []), ("googlenet", 64, [0.3, 0.3]), ("resnet18", 32, [])],
)
def test_auxiliary_logits_in_training_mode(name: str, size: int | None, weights: list[float], tmp_path: Path) -> None:
    backbone = load_backbone(request_model(name, tmp_path, pretrained=False, image_size=size))
    assert training_outputs(backbone) == [(weight, torch.Size((2, len(LABELS)))) for weight in weights]


def test_inception_uses_299_pixels(tmp_path: Path) -> None:
    expects = torchvision_input("inception_v3")
    assert expects == replace(torchvision_input("googlenet"), size=299, resize=342)
