"""The operations are those of torchvision, and are drawn uniformly."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, TrivialAugmentWide

from finetune.data.transforms import trivial_augment as module
from finetune.data.transforms.trivial_augment import OPERATIONS, SIGNED, trivial_augment

IMAGE = torch.randint(0, 256, (3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BLENDS = {"Brightness", "Color", "Contrast", "Sharpness"}
REFERENCE = TrivialAugmentWide()


def test_there_are_the_same_operations() -> None:
    space = TrivialAugmentWide._AUGMENTATION_SPACE
    assert list(OPERATIONS) == list(space)
    assert {name for name, (_, signed) in space.items() if signed} == SIGNED


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_those_of_torchvision(name: str) -> None:
    magnitudes = TrivialAugmentWide._AUGMENTATION_SPACE[name][0](31, 224, 224)
    for number in (0, 10, 30):
        for sign in (1, -1) if name in SIGNED else (1,):
            value = 0.0 if magnitudes is None else sign * float(magnitudes[number])
            expected = REFERENCE._apply_image_or_video_transform(IMAGE, name, value, InterpolationMode.NEAREST, {})
            actual = OPERATIONS[name](IMAGE, sign * number / 30)
            # Factors are rounded to float32 in the reference.
            torch.testing.assert_close(actual, expected, rtol=0, atol=1 if name in BLENDS else 0)


def test_operations_and_magnitudes_are_drawn_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float]] = []

    def record(name: str) -> module.Operation:
        def operation(pixels: Tensor, magnitude: float) -> Tensor:
            drawn.append((name, magnitude))
            return pixels

        return operation

    monkeypatch.setattr(module, "OPERATIONS", {name: record(name) for name in OPERATIONS})
    rng = random.Random(0)
    for _ in range(14 * 200):
        trivial_augment(IMAGE, 1.0, rng)
    counts = Counter(name for name, _ in drawn)
    assert counts.keys() == OPERATIONS.keys()
    assert all(140 < count < 260 for count in counts.values())
    rotations = [magnitude for name, magnitude in drawn if name == "Rotate"]
    assert len({abs(magnitude) for magnitude in rotations}) > 25
    assert 0.3 < sum(magnitude < 0 for magnitude in rotations) / len(rotations) < 0.7
    assert min(magnitude for name, magnitude in drawn if name not in SIGNED) == 0
