"""The answers of image and text inputs that caches and artifacts of earlier versions depend on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune.models.backbone import ImageInput, ModelInput, TextInput

TOKENIZER: Any = None
IMAGE = ImageInput(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), sixteen_bit_depth=12)
TEXT = TextInput(TOKENIZER, 128, vocabulary=30522, token_types=2)
IMAGE_JSON = (
    '{"size": 224, "resize": 256, "interpolation": "bilinear", "mean": [0.485, 0.456, 0.406],'
    ' "std": [0.229, 0.224, 0.225], "sixteen_bit_depth": 12, "stretch": false, "floor_crop": false}'
)


@pytest.mark.parametrize(("expects", "text"), [(IMAGE, IMAGE_JSON), (TEXT, "128")])
def test_cache_key_is_stable(expects: ModelInput, text: str) -> None:
    assert json.dumps(expects.cache_key()) == text


@pytest.mark.parametrize(
    ("expects", "text"), [(IMAGE, IMAGE_JSON), (TEXT, '{"max_length": 128, "texts_per_record": 2}')]
)
def test_preprocessing_of_artifact_is_stable(expects: ModelInput, text: str) -> None:
    assert json.dumps(expects.preprocessing(texts_per_record=2)) == text


@pytest.mark.parametrize(
    ("expects", "modality", "is_augmentable", "max_length", "description"),
    [(IMAGE, "image", True, 1, "images of 224 x 224"), (TEXT, "text", False, 128, "texts of up to 128 tokens")],
)
def test_input_describes_its_modality(
    expects: ModelInput, modality: str, is_augmentable: bool, max_length: int, description: str
) -> None:
    assert (expects.modality, expects.is_augmentable, expects.max_length) == (modality, is_augmentable, max_length)
    assert expects.describe() == description


@pytest.mark.parametrize(
    ("size", "cpu", "cuda"), [(32, 16, 64), (224, 16, 64), (225, 15, 63), (299, 8, 35), (448, 4, 16), (1024, 4, 4)]
)
def test_large_images_have_a_smaller_inference_batch_size(size: int, cpu: int, cuda: int) -> None:
    expects = ImageInput(size, size, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert (expects.inference_batch_size("cpu"), expects.inference_batch_size("cuda")) == (cpu, cuda)


def test_inference_batch_size_of_texts_depends_on_the_device_only() -> None:
    assert (TEXT.inference_batch_size("cpu"), TEXT.inference_batch_size("cuda")) == (8, 32)
